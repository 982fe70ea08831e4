"""One load of one version: its phase, its replicas and their deaths, as the fleet keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from clipperfs.serverd.desired import WantedVersion
from clipperfs.serverd.loader import Prepared
from clipperfs.serverd.reconciler import Held, Phase
from clipperfs.serverd.supervisor import Replica
from clipperfs.serverd.table import HeldView
from clipperfs.serverd.turns import Turn

from clipperfs.documents import LoadedVersion, Policy, utc_now

DRAIN_MARGIN_S = 10.0


@dataclass(slots=True, eq=False)
class Holding:
    """A held version. Times are of the event loop's clock."""

    key: str
    model: str
    wanted: WantedVersion
    policy: Policy
    """Of the model, when the load began; its time limits hold for this load."""
    phase: Phase = "fetching"
    since: str = field(default_factory=utc_now)
    """When it got into this phase, for people."""
    reason: str | None = None
    hint: str | None = None
    prepared: Prepared | None = None
    replicas: dict[str, Replica] = field(default_factory=dict)
    waiting: list[Turn] = field(default_factory=list)
    """Of replicas that are started when others have loaded."""
    retiring: set[str] = field(default_factory=set)
    """Identities of replicas that answer their last queries: out of the table, not yet told to stop."""
    deaths_s: list[float] = field(default_factory=list)
    was_ready: bool = False
    was_routed: bool = False
    """It has been in a routing table."""
    next_start_s: float = 0.0
    idle_since_s: float | None = None
    left_since_s: float = 0.0
    left_epoch: int = 0
    """Number of the first table without it."""

    @property
    def version(self) -> str:
        """Return the version's name."""
        return self.wanted.version

    @property
    def ready(self) -> list[Replica]:
        """Return the replicas that answer queries."""
        return [one for one in self.replicas.values() if one.is_ready and not self._is_going(one)]

    @property
    def starting(self) -> list[Replica]:
        """Return the replicas that are on their way."""
        return [one for one in self.replicas.values() if not one.is_ready and not self._is_going(one)]

    @property
    def is_down(self) -> bool:
        """Say whether it has answered, cannot now, and nothing is on its way yet."""
        return self.was_ready and not (self.ready or self.starting or self.waiting)

    def enter(self, phase: Phase, reason: str | None = None, hint: str | None = None) -> None:
        """Go into a phase, now."""
        self.phase, self.reason, self.hint, self.since = phase, reason, hint, utc_now()

    def held(self, *, is_released: bool) -> Held:
        """Return what the reconciler needs to know."""
        return Held(
            key=self.key,
            model=self.model,
            load=self.wanted.load,
            fuse=self.wanted.fuse,
            phase=self.phase,
            ready=len(self.ready),
            starting=len(self.starting) + len(self.waiting),
            next_start_s=self.next_start_s,
            idle_since_s=self.idle_since_s,
            left_since_s=self.left_since_s,
            is_released=is_released,
            drain_limit_s=self.policy.predict_timeout_s + DRAIN_MARGIN_S,
        )

    def view(self) -> HeldView:
        """Return what the routing table needs to know."""
        prepared = self.prepared
        if prepared is None:
            return HeldView(
                self.key, self.model, self.version, self.wanted.manifest, self.wanted.load, self.phase, self.was_ready
            )
        return HeldView(
            key=self.key,
            model=self.model,
            version=self.version,
            manifest=self.wanted.manifest,
            load=self.wanted.load,
            phase=self.phase,
            was_ready=self.was_ready,
            replicas=tuple(one.identity for one in self.ready),
            input_type=prepared.input_type,
            max_batch=prepared.max_batch,
            fixed_batch=prepared.settings.fixed_batch or None,
            batch_delay_ms=prepared.settings.batch_delay_ms or 0.0,
            idempotent=prepared.settings.idempotent is not False,
            settings=self.wanted.settings,
            warm_up=next((tuple(one.warm_up) for one in self.ready), ()),
        )

    def loaded(self, replicas_wanted: int) -> LoadedVersion:
        """Return what the daemon's status in the registry says of it."""
        match self.phase:
            case "fetching" | "loading":
                state = "loading"
            case "ready":
                state = "ready" if self.ready else "loading"
            case "failed":
                state = "quarantined"
            case _:
                state = "draining"
        return LoadedVersion.model_validate(
            {
                "version": self.version,
                "manifest": self.wanted.manifest,
                "state": state,
                "replicas_ready": len(self.ready),
                "replicas_wanted": replicas_wanted if self.phase not in ("failed", "leaving", "stopping") else 0,
                "reason": self.reason,
            }
        )

    def describe(self, replicas_wanted: int) -> dict[str, Any]:
        """Return its state as plain data."""
        return {
            **self.loaded(replicas_wanted).model_dump(),
            "since": self.since,
            "hint": self.hint,
            "deaths": len(self.deaths_s),
            "replicas_waiting": len(self.waiting),
            "pids": [one.process.pid for one in self.replicas.values()],
        }

    def _is_going(self, one: Replica) -> bool:
        return one.is_leaving or one.hang_reason is not None or one.identity in self.retiring
