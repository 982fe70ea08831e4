"""Whatever is wanted and whatever happens: what answers goes on answering, and everything settles."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipperfs.serverd.desired import ACTIVE, WantedModel, WantedVersion
from clipperfs.serverd.reconciler import (
    Action,
    Begin,
    Forget,
    Held,
    Phase,
    Remove,
    Serve,
    Shrink,
    Start,
    Stop,
    reconcile,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clipperfs.documents import Policy

VERSIONS = ("1", "2", "3", "4")


@dataclass
class Plain:
    """One held version in the plain model of a daemon."""

    key: str
    wanted: WantedVersion
    phase: Phase = "fetching"
    ready: int = 0
    starting: int = 0
    next_start_s: float = 0.0
    idle_since_s: float | None = None
    left_since_s: float = 0.0
    is_released: bool = False

    def seen(self) -> Held:
        return Held(
            self.key, "m", self.wanted.load, self.wanted.fuse, self.phase, self.ready, self.starting,
            self.next_start_s, self.idle_since_s, self.left_since_s, self.is_released, 60.0,
        )  # fmt: skip


@dataclass
class Plan:
    """What the newest record asks for."""

    active: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    previous: str | None = None
    replicas: int = 1
    keep_s: float = 30.0
    seq: int = 1

    def wanted(self) -> WantedModel:
        policy = Policy(replicas=self.replicas, keep_previous_s=self.keep_s)
        if self.replicas == 0:
            return WantedModel("m", self.seq, policy, {}, {}, None)
        loads: dict[str, WantedVersion] = {}
        names: dict[str, str] = {}
        for name, version, count in [
            (ACTIVE, self.active, self.replicas),
            *((a, v, 1) for a, v in self.aliases.items()),
        ]:
            if version is not None:
                one = WantedVersion(version, "d" * 64, {}, count, str(self.seq))
                if one.load not in loads or loads[one.load].replicas < count:
                    loads[one.load] = one
                names[name] = one.load
        fallback = None
        if self.previous is not None and self.previous != self.active:
            fallback = WantedVersion(self.previous, "d" * 64, {}, self.replicas, str(self.seq))
        return WantedModel("m", self.seq, policy, loads, names, fallback)


class ReconcilerMachine(RuleBasedStateMachine):
    """Random records, loads, crashes and time against a plain daemon that does what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.keys = 0
        self.plan = Plan()
        self.held: dict[str, Plain] = {}
        self.serving: dict[tuple[str, str], str] = {}

    @initialize(replicas=st.integers(1, 3))
    def begin(self, replicas: int) -> None:
        self.plan.replicas = replicas

    # What people do

    @rule(version=st.sampled_from(VERSIONS))
    def activate(self, version: str) -> None:
        if version != self.plan.active:
            self.plan.previous = self.plan.active
        self.plan.active = version
        self.plan.seq += 1
        self.step()

    @rule(alias=st.sampled_from(("a", "b")), version=st.sampled_from((*VERSIONS, None)))
    def alias(self, alias: str, version: str | None) -> None:
        self.plan.aliases.pop(alias, None)
        if version is not None:
            self.plan.aliases[alias] = version
        self.plan.seq += 1
        self.step()

    @rule(replicas=st.integers(0, 3), keep_s=st.sampled_from([0.0, 5.0, 60.0]))
    def policy(self, replicas: int, keep_s: float) -> None:
        self.plan.replicas, self.plan.keep_s = replicas, keep_s
        self.plan.seq += 1
        self.step()

    # What happens

    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        able = [one for one in self.held.values() if one.phase == "fetching" or one.starting]
        if not able:
            return
        one = data.draw(st.sampled_from(sorted(able, key=lambda one: one.key)))
        if one.phase == "fetching":
            one.phase = "loading"
        else:
            one.starting -= 1
            one.ready += 1
            one.phase = "ready" if one.phase == "loading" else one.phase
        self.step()

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        able = [one for one in self.held.values() if one.phase in ("fetching", "loading")]
        if able:
            one = data.draw(st.sampled_from(sorted(able, key=lambda one: one.key)))
            one.phase, one.starting, one.ready = "failed", 0, 0
            self.step()

    @rule(data=st.data(), waits=st.booleans())
    def crash(self, data: st.DataObject, waits: bool) -> None:
        able = [one for one in self.held.values() if one.phase == "ready" and one.ready]
        if able:
            one = data.draw(st.sampled_from(sorted(able, key=lambda one: one.key)))
            one.ready -= 1
            one.next_start_s = self.now_s + (3.0 if waits else 0.0)
            self.step()

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        able = [one for one in self.held.values() if one.phase == "ready" and one.ready == 0]
        if able:
            one = data.draw(st.sampled_from(sorted(able, key=lambda one: one.key)))
            one.phase, one.starting = "failed", 0
            self.step()

    @rule()
    def release(self) -> None:
        for one in self.held.values():
            one.is_released = one.phase == "leaving"
        self.step()

    @rule(seconds=st.sampled_from([0.5, 4.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.step()

    # The daemon

    def step(self) -> None:
        for action in self.decide():
            self.apply(action)

    def decide(self) -> list[Action]:
        return reconcile(
            {"m": self.plan.wanted()}, [one.seen() for one in self.held.values()], self.serving, self.now_s
        )

    def apply(self, action: Action) -> None:
        match action:
            case Begin(wanted=wanted):
                alive = [one for one in self.held.values() if one.seen().is_alive and one.wanted.load == wanted.load]
                assert not alive, "a version is loaded twice"
                blown = [one for one in self.held.values() if one.phase == "failed" and one.wanted == wanted]
                assert not blown, "a failed version is tried again though nothing changed"
                self.keys += 1
                key = f"k{self.keys:04d}"
                self.held[key] = Plain(key, wanted)
            case Start(key=key, count=count):
                one = self.held[key]
                assert one.seen().is_alive and self.now_s >= one.next_start_s
                one.starting += count
            case Shrink(key=key, starting=starting, ready=ready):
                one = self.held[key]
                assert 0 <= starting <= one.starting and 0 <= ready <= one.ready and starting + ready > 0
                assert one.ready - ready >= min(1, one.ready), "the last replica that answers is stopped"
                one.starting -= starting
                one.ready -= ready
            case Serve(name=name, key=key):
                self.serve(name, key)
            case Remove(key=key):
                assert key not in self.serving.values(), "what answers leaves the table"
                self.held[key].phase, self.held[key].left_since_s = "leaving", self.now_s
                self.held[key].is_released = False
            case Stop(key=key):
                one = self.held.pop(key)
                assert one.phase == "leaving"
                assert one.is_released or self.now_s >= one.left_since_s + 60.0, "stopped while queries are in flight"
            case Forget(key=key):
                assert self.held.pop(key).phase == "failed"

    def serve(self, name: str, key: str | None) -> None:
        before = self.held.get(self.serving.get(("m", name), ""))
        if (
            before is not None
            and before.ready > 0
            and self.plan.replicas > 0
            and (name in self.plan.aliases or not name)
        ):
            assert key is not None, "a name that answers is taken away"
            assert self.held[key].ready > 0, "a name moves from what answers to what does not"
        if key is None:
            del self.serving["m", name]
        else:
            assert self.held[key].phase == "ready"
            self.serving["m", name] = key
        for one in self.held.values():
            if one.key in self.serving.values():
                one.idle_since_s = None
            elif before is one:
                one.idle_since_s = self.now_s

    @invariant()
    def names_point_at_what_can_answer(self) -> None:
        for key in self.serving.values():
            assert key in self.held

    @invariant()
    def deciding_twice_says_nothing_new(self) -> None:
        self.step()
        again = [action for action in self.decide() if not isinstance(action, Remove | Stop | Forget)]
        assert again == []

    @precondition(lambda self: self.plan.active is not None)
    @rule()
    def settle(self) -> None:
        """When nothing fails any more, the daemon ends with exactly what is wanted."""
        self.plan.seq += 1
        for _ in range(60):
            self.now_s += 61.0
            self.step()
            for one in self.held.values():
                one.is_released = one.phase == "leaving"
                if one.phase == "fetching":
                    one.phase = "loading"
                elif one.starting:
                    one.ready, one.starting, one.phase = one.ready + one.starting, 0, "ready"
        wanted = self.plan.wanted()
        held = {one.wanted.load: one for one in self.held.values()}
        assert set(held) == set(wanted.loads)
        assert len(held) == len(self.held)
        for load, one in held.items():
            assert one.phase == "ready" and one.ready == wanted.loads[load].replicas
        assert {name: self.held[key].wanted.load for (_, name), key in self.serving.items()} == dict(wanted.names)


ReconcilerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestReconciler = ReconcilerMachine.TestCase
