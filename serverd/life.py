"""A process's life: whether it was worth its start, so that its death is no step of a crash loop."""

from __future__ import annotations

from pathlib import Path

WORTH_SHARE = 0.5
VMSTAT = Path("/proc/vmstat")


class Life:
    """When a process was started, and when it got ready. Times are of the caller's monotonic clock, in seconds."""

    __slots__ = ("_oom_kills", "born_s", "ready_s")

    def __init__(self, now_s: float) -> None:
        self.born_s = now_s
        self.ready_s: float | None = None
        self._oom_kills = count_oom_kills()

    def get_ready(self, now_s: float) -> None:
        """Note that the process answers."""
        if self.ready_s is None:
            self.ready_s = now_s

    def was_worth_its_start(self, now_s: float) -> bool:
        """Return whether it was ready for at least half as long as it took to get ready.

        One that is started again at once after such a life spends at most two thirds of the time with starting: a loop
        of deaths takes a processor's time, no more.
        """
        return self.ready_s is not None and now_s - self.ready_s >= (self.ready_s - self.born_s) * WORTH_SHARE

    def met_the_oom_killer(self) -> bool:
        """Return whether the kernel has killed any process of this host for want of memory in this lifetime."""
        return count_oom_kills() != self._oom_kills


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since it booted; 0 where it does not tell."""
    try:
        for line in VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
