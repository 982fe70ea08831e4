"""What a result has to say about where and when it was measured, and what a process tree has used of the processor."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("clipperfs", "uvloop", "httptools", "msgspec", "pyzmq", "numpy")


def describe_machine() -> dict[str, str]:
    """Return the machine, the date and the releases: the first thing that is printed."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB",
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "temporary": f"{tempfile.gettempdir()} on {_filesystem(tempfile.gettempdir())}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "checkout": _checkout(),
    }


def machine_is_busy() -> bool:
    """Say whether others were using more than half a core in the last minute."""
    return os.getloadavg()[0] > 0.5


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _filesystem(folder: str) -> str:
    """Return the type of the filesystem that holds ``folder``: the mount with the longest matching path."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(mount[1], mount[2]) for mount in mounts if Path(folder).resolve().is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[0]))[1]


def _checkout() -> str:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def process_tree(root_pid: int) -> list[int]:
    """Return a process and all its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [root_pid]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time that the living threads of these processes have used, in nanosecond steps."""
    used_ns = 0
    for pid in pids:
        for schedule in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                used_ns += int(schedule.read_text().split()[0])
            except OSError:  # the thread has just ended
                continue
    return used_ns / 1e9


def memory_bytes(pid: int, kind: str = "Rss") -> int:
    """Return what a process holds: ``Rss`` with all it shares with others, ``Pss`` with its part of that; 0: gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith(f"{kind}:")), 0)


def _stat_fields(pid: int) -> list[str] | None:
    """Return /proc/PID/stat from its third field (the state) on: the second may hold blanks and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
