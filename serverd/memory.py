"""What a daemon knows of the registry: the newest records, whether it answers, and the snapshot for the next start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from clipperfs.serverd.desired import Desired, Snapshot, desired_state, parse_snapshot
from clipperfs.serverd.events import Events
from clipperfs.serverd.reader import Look
from clipperfs.serverd.statedir import StateDir

from clipperfs.daemon_files import DESIRED_FILE
from clipperfs.documents import AppRecord, ModelRecord, canonical_bytes
from clipperfs.errors import ClipperfsError, InvalidDocument, StorageError


class Memory:
    """The records that a daemon goes by. What it once knew stays until something newer replaces it: absence unloads
    nothing.

    Args:
        only: the models that are served; ``None``: all.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, state: StateDir, events: Events, only: list[str] | None, clock: Callable[[], float]) -> None:
        self.models: dict[str, ModelRecord] = {}
        self.apps: dict[str, AppRecord] = {}
        self.alarms: dict[str, str] = {}
        self.failure: ClipperfsError | None = None
        """Why the registry could not be looked at the last time; ``None`` when it could."""
        self._state = state
        self._events = events
        self._only = only
        self._clock = clock
        self._tries: dict[str, int] = {}
        self._unreachable_s: float | None = None
        self._newest: tuple[int, Snapshot | None] = (0, None)
        self._written = 0
        self._writing = threading.Lock()

    @property
    def is_reachable(self) -> bool:
        """Say whether the registry answered the last look."""
        return self._unreachable_s is None

    def follows(self, model: str) -> bool:
        """Say whether the daemon serves a model."""
        return self._only is None or model in self._only

    def restore(self) -> bool:
        """Take over the snapshot of the last run; say whether there was one. Raises StorageError."""
        data = self._state.read(DESIRED_FILE)
        if data is None:
            return False
        try:
            snapshot = parse_snapshot(data)
        except InvalidDocument as error:
            self._events.tell("alarm", subject=DESIRED_FILE, reason=error.message)
            return False
        self.models = {record.model: record for record in snapshot.models if self.follows(record.model)}
        self.apps = {record.app: record for record in snapshot.apps}
        return True

    def take_look(self, look: Look) -> None:
        """Take over what a look found, and tell what is new about the registry itself."""
        if self._unreachable_s is not None:
            self._events.tell("registry back", after_s=round(self._clock() - self._unreachable_s, 1))
        self._unreachable_s, self.failure = None, None
        for subject, alarm in look.alarms.items():
            if self.alarms.get(subject) != alarm:
                self._events.tell("alarm", subject=subject, reason=alarm)
        self.alarms = dict(look.alarms)
        self.models.update(look.models)
        self.apps.update(look.apps)

    def take_failure(self, error: ClipperfsError) -> None:
        """Note that the registry could not be looked at."""
        self.failure = error
        if self._unreachable_s is None:
            self._unreachable_s = self._clock()
            self._events.tell("registry unreachable", reason=error.message)

    def try_again(self, model: str) -> None:
        """Give what failed of a model another chance."""
        self._tries[model] = self._tries.get(model, 0) + 1

    def desired(self, brakes: Mapping[str, int] | None = None) -> Desired:
        """Return what the records ask for.

        Args:
            brakes: the ``candidate.seq`` of a rollout that this daemon has stopped, by model.
        """
        return desired_state(self.models.values(), self.apps.values(), tries=self._tries, brakes=brakes)

    def snapshot(self, registry_id: str) -> Callable[[], None]:
        """Return what writes the records of this moment for the next start.

        It may run on any thread and in any order: an older snapshot never replaces a newer one. It never raises.
        """
        self._newest = (
            self._newest[0] + 1,
            Snapshot(
                registry_id=registry_id,
                models=[self.models[name] for name in sorted(self.models)],
                apps=[self.apps[name] for name in sorted(self.apps)],
            ),
        )
        return self._write_newest

    def _write_newest(self) -> None:
        """Spell and write the newest snapshot, unless another thread is at it: that one goes on until it has."""
        while self._written < self._newest[0] and self._writing.acquire(blocking=False):
            try:
                number, snapshot = self._newest
                assert snapshot is not None
                self._state.write(DESIRED_FILE, canonical_bytes(snapshot))
            except StorageError as error:
                self._events.tell("alarm", subject=DESIRED_FILE, reason=error.message)
            finally:
                self._written = number
                self._writing.release()

    def describe(self, url: str, *, following: bool) -> dict[str, Any]:
        """Return the registry's part of the status document."""
        stale_s = 0.0 if self._unreachable_s is None else self._clock() - self._unreachable_s
        return {
            "url": url,
            "state": "reachable" if self.is_reachable else "unreachable",
            "stale_seconds": round(stale_s, 1),
            "reason": self.failure.message if self.failure is not None else None,
            "following": following,
            "alarms": dict(self.alarms),
        }
