"""Random queries, replicas and tables against a frontend's dispatcher: each query one answer, each lease one end."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from clipperfs.serverd.pending import Query
from clipperfs.serverd.routing import AppRoute, ModelRoute, RolloutRoute, RoutingTable, VersionRoute
from clipperfs.serverd.served import Batch, ServedVersion
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from clipperfs.wire import Packed
from tests.property.frontend_world import Request, World
from tests.scale import scaled

APPS = ("quick", "usual", "patient")
SLO_S = {"quick": 0.05, "usual": 0.3, "patient": 2.0}
NAMES = ("1", "2")
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0])
HOW = st.sampled_from(["output", "output", "output", "output", "fault", "malformed"])
PICK = st.integers(0, 11)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without explaining: that takes minutes where a run is long."""


def manifest(name: str) -> str:
    return name * 64


class DispatchMachine(RuleBasedStateMachine):
    """One model ``m``, two names of versions that come and go in several loads, three applications."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.loop = self.world.loop
        self.requests: list[Request] = []
        self.base = 0.0
        """Added to each value, so that the cache does not know them all soon."""
        self.loads = 0
        self.replicas = 0
        self.owners: dict[bytes, str] = {}
        """Which version's process an identity is."""
        self.submitted: Counter[str] = Counter()
        self.has_left = False
        apps = {app: AppRoute("doubles", int(slo_s * 1e6), f"default of {app}", "m") for app, slo_s in SLO_S.items()}
        self.apps = apps
        self.model: ModelRoute | None = ModelRoute(active="1", versions={"1": self.load("1", 2)})
        self.apply()

    def teardown(self) -> None:
        try:
            self.come_to_rest()
        finally:
            self.world.close()

    # -- tables

    def load(self, name: str, replicas: int, *, idempotent: bool = True, max_batch: int = 2) -> VersionRoute:
        self.loads += 1
        identities = tuple(self.new_replica(name) for _ in range(replicas))
        return VersionRoute(
            f"load{self.loads}", manifest(name), "doubles", identities, max_batch=max_batch, idempotent=idempotent
        )

    def new_replica(self, name: str) -> str:
        self.replicas += 1
        identity = self.replicas.to_bytes(2, "big")
        self.owners[identity] = name
        return identity.hex()

    def apply(self, **changes: Any) -> None:
        if self.model is not None:
            self.model = replace(self.model, **changes)
        models = {} if self.model is None else {"m": self.model}
        self.world.apply(RoutingTable(self.world.table.epoch + 1, True, self.apps, models))
        self.check_hand_over()

    @property
    def versions(self) -> dict[str, VersionRoute]:
        return dict(self.model.versions) if self.model is not None else {}

    @rule(
        name=st.sampled_from(NAMES),
        replicas=st.sampled_from([2, 1, 2, 0]),
        idempotent=st.booleans(),
        size=st.sampled_from([1, 2, 4]),
    )
    def load_anew(self, name: str, replicas: int, idempotent: bool, size: int) -> None:
        self.apply(versions=self.versions | {name: self.load(name, replicas, idempotent=idempotent, max_batch=size)})

    @rule(kind=st.sampled_from(["canary", "canary", "shadow"]), percent=st.sampled_from([50.0, 100.0]))
    def start_rollout(self, kind: str, percent: float) -> None:
        if self.model is None or self.model.active is None:
            return
        name = "2" if self.model.active == "1" else "1"
        versions = self.versions
        if name not in versions:
            versions[name] = self.load(name, 1)
        rollout = RolloutRoute(kind, name, percent, "00" * 8) if versions[name].replicas else None
        self.apply(versions=versions, rollout=rollout)

    @rule(stays=st.booleans())
    def abort_rollout(self, stays: bool) -> None:
        if self.model is not None and self.model.rollout is not None:
            name = self.model.rollout.version
            kept = {one: route for one, route in self.versions.items() if stays or one != name}
            self.apply(versions=kept, rollout=None)

    @rule(stays=st.booleans())
    def promote(self, stays: bool) -> None:
        if self.model is not None and self.model.rollout is not None:
            name = self.model.rollout.version
            kept = {one: route for one, route in self.versions.items() if stays or one == name}
            self.apply(versions=kept, active=name, rollout=None)

    @rule(name=st.sampled_from(NAMES), pick=PICK, gone=st.booleans())
    def lose_or_add_replica(self, name: str, pick: int, gone: bool) -> None:
        route = self.versions.get(name)
        if route is None or (gone and not route.replicas):
            return
        if gone:
            one = route.replicas[pick % len(route.replicas)]
            left = tuple(other for other in route.replicas if other != one)
        else:
            left = (*route.replicas, self.new_replica(name))
        rollout = self.model.rollout if self.model is not None else None
        if rollout is not None and rollout.version == name and not left:
            rollout = None
        self.apply(versions=self.versions | {name: replace(route, replicas=left)}, rollout=rollout)

    @rule(gone=st.sampled_from([False, False, False, True]))
    def unlink_model(self, gone: bool) -> None:
        if gone:
            self.model = None
            self.apply()

    @precondition(lambda self: self.model is None)
    @rule()
    def link_model(self) -> None:
        self.model = ModelRoute(active="1", versions={"1": self.load("1", 2)})
        self.apply()

    @rule(is_on=st.booleans())
    def switch_cache(self, is_on: bool) -> None:
        self.apply(cache=is_on)

    @rule(app=st.sampled_from(APPS), most=st.sampled_from([None, 2]), factor=st.sampled_from([1, 2]))
    def change_app(self, app: str, most: int | None, factor: int) -> None:
        slo_us = int(SLO_S[app] * 1e6) * factor
        self.apps = self.apps | {app: replace(self.apps[app], max_concurrent=most, slo_us=slo_us)}
        self.apply()

    # -- queries

    @rule(
        app=st.sampled_from(APPS),
        values=st.lists(VALUES, min_size=1, max_size=5),
        pin=st.sampled_from([None, None, *NAMES]),
        form=st.sampled_from(["json", "raw"]),
        key=st.sampled_from([None, "k", "l"]),
    )
    def ask(self, app: str, values: list[float], pin: str | None, form: str, key: str | None) -> None:
        by: set[str] | None = {pin} if pin is not None else None
        rollout = self.model.rollout if self.model is not None else None
        if pin is None and self.model is not None and (rollout is None or rollout.kind == "shadow"):
            by = {self.model.active or ""}
        request = Request(self.loop, app, values, self.loop.now + self.apps[app].slo_us / 1e6, by)
        self.requests.append(request)
        self.submitted[app] += len(values)
        entry = self.world.handler.routes[f"/{app}/predict".encode()]
        exchange: Any = request
        if form == "json":
            body = {"input": [values[0]]} if len(values) == 1 else {"input_batch": [[value] for value in values]}
            self.world.handler.handle(entry, exchange, json.dumps(body).encode(), pin, key)
        else:
            packed: list[Packed] = [struct.pack("<d", value) for value in values]
            inputs = packed[0] if len(packed) == 1 else packed
            self.world.handler.handle_packed(entry, exchange, inputs, pin, key, self.loop.now)
        self.loop.settle()

    @rule(app=st.sampled_from(APPS), value=VALUES, more=st.sampled_from([0, 1, 9]))
    def ask_plainly(self, app: str, value: float, more: int) -> None:
        self.base += 10.0
        for number in range(more + 1):
            self.ask(app, [value + number + self.base], None, "json", None)

    @rule(rounds=st.integers(1, 3))
    def work(self, rounds: int) -> None:
        """Have a few queries answered at once: what is learned from batches is learned."""
        for number in range(rounds):
            self.base += 4.0
            self.ask("patient", [float(number) + self.base], None, "json", None)
            self.loop.advance(0.001)
            self.answer_all()

    @rule(rounds=st.integers(1, 3), value=VALUES, seconds=st.sampled_from([0.02, 0.2]))
    def straggle(self, rounds: int, value: float, seconds: float) -> None:
        """Have a batch be late, beside what is known of others."""
        self.work(rounds)
        self.ask_plainly("patient", value, 1)
        self.loop.advance(seconds)

    @rule(pick=PICK)
    def leave(self, pick: int) -> None:
        waiting = [request for request in self.requests if not request.replies and not request.has_left]
        if waiting:
            waiting[pick % len(waiting)].leave()
            self.has_left = True

    # -- replicas and time

    @rule(pick=PICK, at=PICK, how=HOW)
    def answer(self, pick: int, at: int, how: str) -> None:
        got = {identity: messages for identity, messages in self.world.transport.got.items() if messages}
        if got:
            identity = sorted(got)[pick % len(got)]
            self.reply(identity, at % len(got[identity]), how)

    @rule()
    def answer_all(self) -> None:
        for identity, messages in list(self.world.transport.got.items()):
            for _ in range(len(messages)):
                self.reply(identity, 0, "output")

    def reply(self, identity: bytes, at: int, how: str) -> None:
        name = self.owners[identity]
        self.world.answer(identity, at, how, lambda part: output_of(name, part))

    @rule(pick=PICK)
    def cut_off(self, pick: int) -> None:
        identities = sorted(self.world.dispatcher._outbox.replicas)
        if identities:
            self.world.transport.unreachable ^= {identities[pick % len(identities)]}

    @rule(pick=PICK)
    def lose(self, pick: int) -> None:
        identities = sorted(self.world.dispatcher._outbox.replicas)
        if identities:
            self.world.lose(identities[pick % len(identities)])

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.03, 0.2, 1.0]))
    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)

    # -- what must hold

    @invariant()
    def everything_holds(self) -> None:
        self.leases_agree()
        self.every_query_is_somewhere()
        self.replicas_count_their_batches()
        self.no_replica_idles_while_queries_wait()
        self.cache_holds_what_the_version_says()
        self.failures_are_earned()

    def leases_agree(self) -> None:
        live: Counter[int] = Counter()
        in_flight: Counter[str] = Counter()
        for query in self.world.unanswered():
            assert self.loop.now < query.deadline, "a query is over its deadline"
            live[id(query.version)] += 1
            if query.owner.limiter is not None:
                in_flight[query.owner.app] += 1
        for number, version in self.world.seen.items():
            assert version.live == live[number], f"{version.name} counts {version.live}, leased by {live[number]}"
            if version.route.key in self.world.released:
                assert version.live == 0, f"{version.name} is leased again after it was released"
        for version in self.world.dispatcher.versions.values():
            assert version.live or not version.is_leaving, f"{version.name} has left and is not released"
        for app, limiter in self.world.handler._limiters.items():
            assert limiter.in_flight == in_flight[app]

    def every_query_is_somewhere(self) -> None:
        places: Counter[int] = Counter()
        for version in self.world.seen.values():
            queue = version.queue
            rows = [query for lane in queue.lanes.values() for query in lane]
            assert (queue.rows, queue.size_bytes) == (len(rows), sum(len(query.packed) for query in rows))
            waiting = rows + [query for group in version.retries for query in group]
            assert all(query.version is version for query in waiting if not query.is_done)
            places.update(id(query) for query in waiting)
            for key, leader in version.asked.items():
                assert not leader.is_done and leader.version is version and leader.key == key
        for batch in self.world.dispatcher._outbox.batches.values():
            assert batch.twin is None or batch.twin.twin is batch
            for query in batch.queries:
                self.world.harm(query).was_out = True
                assert query.is_done or query.version is batch.version, "a batch with queries of two versions"
            if batch.twin is None or id(batch) < id(batch.twin):
                places.update({id(query) for query in batch.queries + (batch.twin.queries if batch.twin else [])})
        for query in self.world.unanswered():
            places.update(id(follower) for follower in query.followers or [])
        for query in self.world.unanswered():
            assert places[id(query)] == 1, f"an unanswered query is in {places[id(query)]} places"

    def replicas_count_their_batches(self) -> None:
        out = Counter(id(batch.replica) for batch in self.world.dispatcher._outbox.batches.values())
        for replica in self.world.dispatcher._outbox.replicas.values():
            assert replica.batches == out[id(replica)]

    def no_replica_idles_while_queries_wait(self) -> None:
        for version in self.world.dispatcher.versions.values():
            if any(self.waiting_for(version)):
                assert not [one for one in version.replicas if one.is_reachable and not one.batches]

    def cache_holds_what_the_version_says(self) -> None:
        for key, (output, _) in self.world.cache._outputs.items():
            manifest, _, _, packed = key.split(b":", 3)
            assert output == output_of(manifest.decode()[0], packed), "the output of another version"

    def failures_are_earned(self) -> None:
        """A query fails by a fault, or with two replicas; one that was never out fails with the one it followed."""
        for query, harm in list(self.world.harms.values()):
            reply = next(iter(self.replies_of(query)), None)
            if reply is not None and "failed on this query" in reply.get("default_explanation", ""):
                assert not harm.was_out or harm.faults or harm.losses > 1, "given up after the loss of one replica"

    def replies_of(self, query: Query) -> list[dict[str, Any]]:
        request: Any = query.sink if query.index < 0 else query.sink._exchange  # type: ignore[union-attr]
        return [answers[max(0, query.index)] for _, answers in request.replies if query.number >= 0]

    def waiting_for(self, version: ServedVersion) -> list[Query]:
        waiting = [query for lane in version.queue.lanes.values() for query in lane]
        waiting += [query for group in version.retries for query in group]
        return [query for query in waiting if not query.is_done]

    def out_of(self, version: ServedVersion) -> list[Batch]:
        return [batch for batch in self.world.dispatcher._outbox.batches.values() if batch.version is version]

    def check_hand_over(self) -> None:
        """What waits for a candidate whose canary has ended waits for the active version instead."""
        model = self.model
        active = None if model is None else self.world.dispatcher._leases.actives.get("m")
        if model is None or active is None or not active.replicas or active.queue.rows >= active.bearable:
            return
        canary = model.rollout.version if model.rollout is not None and model.rollout.kind == "canary" else None
        for version in self.world.dispatcher.versions.values():
            if version is not active and (version.name != canary or version.is_leaving):
                left = [
                    one for one in self.waiting_for(version) if one.is_canary and one.deadline > self.loop.now + 0.002
                ]
                assert not left, f"{len(left)} queries still wait for the candidate {version.name}"

    def come_to_rest(self) -> None:
        self.loop.advance(5.0)
        assert not self.world.unanswered()
        for request in self.requests:
            assert request.has_left or len(request.replies) == 1
        self.leases_agree()
        for app in APPS:
            counter = self.world.counters.app(app)
            assert counter.queries == self.submitted[app]
            if not self.has_left:
                assert sum(counter.latency) == counter.queries
                answers = [one for request in self.requests if request.app == app for one in request.replies[0][1]]
                assert sum(counter.defaults.values()) == sum(answer["default"] for answer in answers)
        for number, one in self.world.counters.versions.items():
            assert one.moved <= one.queries + one.defaults, number


def output_of(name: str, packed: bytes) -> bytes:
    return json.dumps([name, struct.unpack("<d", packed)[0]]).encode()


def search(examples: int, steps: int, **options: Any) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=checks,
        phases=PHASES,
        **options,
    )


DispatchMachine.TestCase.settings = search(100, 50)
TestDispatchMachine = DispatchMachine.TestCase


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_long_search_finds_nothing() -> None:
    run_state_machine_as_test(DispatchMachine, settings=search(scaled(1500, 100_000), 60))


def test_refused_queries_of_a_canary_wait_their_turn_in_full_batches() -> None:
    """Each alone, ahead of the active version's queue, would cost it its batches: as many as the candidate refuses."""
    machine = DispatchMachine()
    try:
        machine.start_rollout("canary", 100.0)
        for _ in range(4):
            machine.ask("patient", [0.0, 1.0, 2.0, 3.0], None, "json", "k")
        active = machine.world.dispatcher._leases.actives["m"]
        refused = active.counter.queries
        assert refused >= 4
        assert active.queue.rows + sum(len(one.queries) for one in machine.out_of(active)) == refused
        assert not active.retries
        machine.answer_all()
        machine.everything_holds()
    finally:
        machine.teardown()


@pytest.fixture
def machine() -> Iterator[DispatchMachine]:
    machine = DispatchMachine()
    yield machine
    try:
        machine.everything_holds()
    finally:
        machine.teardown()  # else every test after a failure would live by this one's clock


def outputs(machine: DispatchMachine) -> list[Any]:
    return [answer["output"] for request in machine.requests for _, answers in request.replies for answer in answers]


def hand_over_by_fault(machine: DispatchMachine) -> bytes:
    """Have the active version take over two queries that the candidate failed on; return which replica got them."""
    machine.start_rollout("canary", 100.0)
    (candidate,) = (replica for replica, name in machine.owners.items() if name == "2")
    machine.ask("patient", [0.0, 1.0], None, "json", "k")
    while machine.world.transport.got[candidate]:
        machine.reply(candidate, 0, "fault")
    assert sum(len(one.queries) for one in machine.out_of(machine.world.dispatcher._leases.actives["m"])) == 2
    return machine.out_of(machine.world.dispatcher._leases.actives["m"])[0].replica.identity


def test_lookout_is_told_of_every_batch_that_goes_and_comes_back(machine: DispatchMachine) -> None:
    lookout = machine.world.dispatcher._outbox.lookout
    with patch.object(lookout, "sent", wraps=lookout.sent) as sent, patch.object(lookout, "heard") as heard:
        for number in range(3):
            machine.ask("patient", [float(number)], None, "json", None)
            machine.wait(0.001)
            assert (sent.call_count, heard.call_count) == (number + 1, number)
            machine.answer_all()
            assert heard.call_count == number + 1


def test_query_taken_over_outlives_a_replica_of_the_active_version(machine: DispatchMachine) -> None:
    identity = hand_over_by_fault(machine)
    machine.lose_or_add_replica("1", machine.versions["1"].replicas.index(identity.hex()), True)
    machine.answer_all()
    machine.answer_all()
    assert outputs(machine) == [["1", 0.0], ["1", 1.0]]


def test_batch_of_queries_taken_over_is_split_like_any_other(machine: DispatchMachine) -> None:
    machine.load_anew("2", 1, True, 2)
    machine.start_rollout("canary", 100.0)
    (candidate,) = machine.world.dispatcher.versions["load2"].replicas
    machine.world.transport.unreachable.add(candidate.identity)
    for version in machine.world.dispatcher.versions.values():
        version.batch_limit.limit = 2
    machine.ask("patient", [0.0, 1.0], None, "json", "k")
    machine.abort_rollout(False)
    machine.wait(1.0)
    (batch,) = machine.out_of(machine.world.dispatcher._leases.actives["m"])
    assert len(batch.queries) == 2
    while machine.out_of(batch.version):
        one = machine.out_of(batch.version)[0]
        machine.reply(one.replica.identity, 0, "fault" if len(one.queries) > 1 else "output")
    assert sorted(outputs(machine)) == [["1", 0.0], ["1", 1.0]]


def test_what_could_not_be_sent_to_a_candidate_goes_to_the_active_version(machine: DispatchMachine) -> None:
    machine.start_rollout("canary", 100.0)
    machine.world.transport.unreachable |= {replica for replica, name in machine.owners.items() if name == "2"}
    machine.ask("patient", [0.0], None, "json", "k")
    assert machine.world.dispatcher.versions["load2"].retries
    machine.abort_rollout(False)
    assert machine.world.released == ["load2"]
    machine.answer_all()
    assert outputs(machine) == [["1", 0.0]]


def test_follower_is_predicted_when_its_leader_has_run_out_of_time(machine: DispatchMachine) -> None:
    machine.ask("quick", [0.0], None, "json", None)
    machine.ask("patient", [0.0], None, "json", None)
    assert machine.world.counters.version("m", "1").shared == 1
    machine.wait(0.06)
    assert len(machine.out_of(machine.world.dispatcher._leases.actives["m"])) == 2
    for identity, messages in machine.world.transport.got.items():
        if any(batch.queries[0].owner.app == "patient" and batch.replica.identity == identity for batch in
               machine.out_of(machine.world.dispatcher._leases.actives["m"])):  # fmt: skip
            machine.reply(identity, len(messages) - 1, "output")
    assert outputs(machine) == ["default of quick", ["1", 0.0]]


def test_fault_of_one_of_two_twins_leaves_the_query_to_the_other(machine: DispatchMachine) -> None:
    for value in (1.0, 2.0, 3.0):
        machine.ask("patient", [value], None, "json", None)
        machine.wait(0.001)
        machine.answer_all()
    machine.ask("patient", [0.0], None, "json", None)
    machine.wait(0.2)
    one, other = machine.out_of(machine.world.dispatcher._leases.actives["m"])
    assert one.twin is other
    machine.reply(one.replica.identity, 0, "fault")
    assert len(outputs(machine)) == 3
    machine.reply(other.replica.identity, 0, "output")
    assert outputs(machine)[-1] == ["1", 0.0]


def test_released_version_takes_nothing_over(machine: DispatchMachine) -> None:
    machine.start_rollout("canary", 100.0)
    machine.ask("patient", [0.0], None, "json", "k")
    machine.unlink_model(True)
    assert machine.world.released == ["load1"], "nobody leases the active version"
    (candidate,) = (replica for replica, name in machine.owners.items() if name == "2")
    machine.reply(candidate, 0, "fault")
    assert outputs(machine) == ["default of patient"]
    assert machine.world.released == ["load1", "load2"]
