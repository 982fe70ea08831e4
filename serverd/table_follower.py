"""From one routing table to the next: versions come, stay and leave, and so do their replicas."""

from __future__ import annotations

from time import monotonic

from .agenda import Agenda
from .cache import PredictionCache
from .counters import Counters
from .lease import Leases
from .outbox import Outbox
from .routing import RoutingTable, VersionRoute, explain_crashed
from .served import ServedVersion
from .setback import Setbacks


class TableFollower:
    """Keeps the served versions and their replicas as the newest table has them.

    Args:
        position: This frontend's among those that follow the table, from 0.
    """

    def __init__(
        self,
        cache: PredictionCache,
        counters: Counters,
        agenda: Agenda,
        outbox: Outbox,
        leases: Leases,
        setbacks: Setbacks,
        position: int,
    ) -> None:
        self._position = position
        self._cache = cache
        self._counters = counters
        self._agenda = agenda
        self._outbox = outbox
        self._leases = leases
        self._setbacks = setbacks

    def apply(self, table: RoutingTable) -> dict[tuple[str, str], ServedVersion]:
        """Follow a new table. Returns what serves each (model, version) of it.

        Versions that stay keep their queries; versions that go finish theirs on the replicas that they have; the
        batches of a replica that has gone from a version that stays are tried once on another replica.
        """
        served: dict[tuple[str, str], ServedVersion] = {}
        shortest: dict[str, float] = {}
        for app in table.apps.values():
            if app.model is not None:
                shortest[app.model] = min(shortest.get(app.model, float("inf")), app.slo_us / 1e6)
        self._leases.actives.clear()  # of a model that has left, too: a released version must not be leased again
        for model_name, model in table.models.items():
            # The active version first: it takes over what a candidate that lost its replicas leaves.
            for name in sorted(model.versions, key=lambda name: name != model.active):
                route = model.versions[name]
                version = self._leases.versions.get(route.key)
                if version is None:
                    version = ServedVersion(model_name, name, route, self._counters.version(model_name, name))
                    self._leases.versions[route.key] = version
                version.is_leaving = False
                version.frontends = table.frontends
                version.follow_slo(shortest.get(model_name, 1.0))
                version.uses_cache = model.cache and self._cache.max_bytes > 0
                if name == model.active:
                    self._leases.actives[model_name] = version
                self._follow(version, route, route.unavailable or model.unavailable)
                served[model_name, name] = version
                rollout = model.rollout
                if name != model.active and (rollout is None or rollout.version != name or rollout.kind != "canary"):
                    self._hand_over_waiting(version)  # an alias or a pin may keep what was a candidate
        staying = {version.route.key for version in served.values()}
        for version in list(self._leases.versions.values()):
            if version.route.key not in staying:
                self._hand_over_waiting(version)  # each time: an active version may have come back
                version.is_leaving = True
                self._leases.release(version, 0)
        return served

    def _hand_over_waiting(self, version: ServedVersion) -> None:
        """Have the active version answer what waits for a candidate whose rollout has ended.

        So does what could not be sent, or is to be tried again: the replicas may be why the rollout has ended. What is
        in ``retries`` may be done again: of a version that is not idempotent that is what never left.
        """
        groups = [group for group in version.retries if any(query.is_canary for query in group)]
        if not groups and not any(query.is_canary for lane in version.queue.lanes.values() for query in lane):
            return
        now = monotonic()
        count = 0
        for _ in range(len(version.retries)):
            group = [query for query in version.retries.popleft() if not query.is_done]
            left = self._leases.hand_over(version, group, now)
            count += len(group) - len(left)
            if left:
                version.retries.append(left)
        waiting = version.queue.take_all()
        left = self._leases.hand_over(version, waiting, now)
        for query in left:
            version.queue.put(query, query.owner.app)
        self._leases.release(version, count + len(waiting) - len(left))

    def _follow(self, version: ServedVersion, route: VersionRoute, unavailable: str | None) -> None:
        version.follow(route)
        wanted = {bytes.fromhex(identity) for identity in route.replicas}
        gone = [replica for replica in version.replicas if replica.identity not in wanted]
        version.replicas = [replica for replica in version.replicas if replica.identity in wanted]
        known = {replica.identity for replica in version.replicas}
        for identity in route.replicas:
            key = bytes.fromhex(identity)
            if key not in known:
                version.replicas.append(self._outbox.add_replica(key, version))
        # Each frontend begins with another one: of replicas that are equally busy the first is asked.
        start = self._position % max(1, len(route.replicas))
        places = {
            bytes.fromhex(one): place for place, one in enumerate(route.replicas[start:] + route.replicas[:start])
        }
        version.replicas.sort(key=lambda replica: places[replica.identity])
        version.follow_readers()
        for replica in gone:
            self._outbox.drop_replica(replica)
            self._setbacks.retry_batches(replica)
        if not version.replicas:
            now = monotonic()
            explanation = unavailable or explain_crashed(version.model, version.name)
            waiting = [query for group in version.retries for query in group]
            version.retries.clear()
            waiting += version.queue.take_all()
            # Of a version that is not idempotent, only batches that could not be sent wait in ``retries``.
            self._leases.give_up(version, waiting, "unavailable", explanation, now, have_begun=False)
        elif not version.is_dirty:
            self._agenda.mark(version)
