"""Death, and the kernel's errors, at every system call that changes a file: old state or new, and rerun completes.

The processes are real, on a real filesystem; strace kills them on entry of their nth call of a kind, or lets it fail.
A quarter of the points by default, all with ``CLIPPERFS_PROOF_SCALE=4``.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipperfs.checking import runner
from tests.integration import syscall_steps
from tests.integration.fault_world import VERBS, Seen, World, judge, quick_folder
from tests.integration.syscall_steps import OTHER_ERROR, PLANTED, STORAGE_ERROR

pytestmark = [pytest.mark.proof, pytest.mark.needs("strace"), pytest.mark.timeout(1800)]

SCALE = int(os.environ.get("CLIPPERFS_PROOF_SCALE", "1"))
EVERY = max(1, 4 // SCALE)
ROOT = Path(__file__).parents[2]
ERRORS = {
    "openat": ("ENOSPC", "EDQUOT", "EIO", "EROFS"),
    "write": ("ENOSPC", "EDQUOT", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "link": ("EIO", "ENOSPC", "EDQUOT"),
    "linkat": ("EIO", "ENOSPC", "EDQUOT"),
    "rename": ("EIO", "ENOSPC"),
    "mkdir": ("ENOSPC", "EDQUOT", "EROFS"),
    "unlink": ("EIO", "EROFS"),
    "unlinkat": ("EIO",),
    "rmdir": ("EIO",),
    "chmod": ("EIO",),
    "fchmod": ("EIO",),
    "ftruncate": ("EIO",),
    "utimensat": ("EIO",),
}
"""The calls that change files, and the errors that each is made to fail with."""
TRACED = ",".join([*ERRORS, "renameat", "renameat2", "mkdirat", "symlink", "fallocate", "copy_file_range", "sendfile"])
CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


@dataclass(frozen=True)
class Point:
    """Where something happens: at the nth call of a kind, counted for each thread."""

    call: str
    at: int
    error: str | None
    """``None``: the process is killed."""

    @property
    def injection(self) -> str:
        """Return what to tell strace."""
        what = f"error={self.error}" if self.error else "signal=KILL"
        return f"{self.call}:{what}:when={self.at}"


class Tracer:
    """Runs verbs in processes of their own under strace."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.numbers = itertools.count()
        self.log = place / "trace"
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", syscall_steps.__file__],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, world: World, point: Point | None = None, *, is_traced: bool = True) -> int:
        """Return the exit status; negative for a signal."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(f"{verb}\t{world.place}\n")
        self.server.stdin.flush()
        child = int(self.server.stdout.readline())
        if not is_traced:
            os.kill(child, signal.SIGCONT)
            return int(self.server.stdout.readline())
        injected = ["-e", f"inject={point.injection}"] if point else []
        command = ["strace", "-f", "-o", str(self.log), "-e", f"trace={TRACED}", *injected, "-p", str(child)]
        strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert strace.stderr is not None
        said = strace.stderr.readline()
        os.kill(child, signal.SIGCONT if "attached" in said else signal.SIGKILL)
        status = int(self.server.stdout.readline())
        said += strace.communicate()[1]
        if "attached" not in said:
            pytest.skip(f"processes cannot be traced here: {said.strip()}")
        return status

    def points(self) -> list[Point]:
        """Return where the run that was traced last could have died or failed."""
        counts: Counter[tuple[str, str]] = Counter()
        found: dict[Point, None] = {}
        for line in self.log.read_text(errors="replace").splitlines():
            match = CALL.match(line)
            if match is None or "resumed>" in line:
                continue
            thread, call, arguments = match.groups()
            counts[thread, call] += 1
            if call == "openat" and "O_CREAT" not in arguments:
                continue
            assert call in ERRORS, f"{call} changes files and is not swept"
            at, errors = counts[thread, call], ERRORS[call]
            found[Point(call, at, None)] = None
            found[Point(call, at, errors[at % len(errors)])] = None
        return list(found)

    def stop(self) -> None:
        """End the process that forks the others."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(10)
        self.server.stdout.close()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def tracer(place: Path) -> Iterator[Tracer]:
    running = Tracer(place)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def prepared(place: Path) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_hooks", syscall_steps.answer)
        yield World(place / "prepared", "local").prepare()


def sweep(tracer: Tracer, origin: World, verb: str, *, offset: int, every: int) -> Counter[str]:
    """Try the points of one verb; return how many there were of each kind."""
    before = origin.see()
    undisturbed = origin.clone(tracer.place / f"undisturbed-{next(tracer.numbers)}")
    assert tracer.run(verb, undisturbed) == 0
    points = tracer.points()
    after = undisturbed.see()
    undisturbed.remove()
    assert len(points) > 4
    tried: Counter[str] = Counter()
    for point in points[offset % every :: every]:
        world = origin.clone(tracer.place / f"world-{next(tracer.numbers)}")
        status = tracer.run(verb, world, point)
        tried["killed" if status == -signal.SIGKILL else "failed" if status == STORAGE_ERROR else "succeeded"] += 1
        check(tracer, world, verb, point, before, after, status)
        world.remove()
    return tried


def check(tracer: Tracer, world: World, verb: str, point: Point, before: Seen, after: Seen, status: int) -> None:
    """Hold what is there against the old state and the new; run the verb again, and collect what was left behind."""
    where = f"{verb}, {point.injection}, ended with {status}"
    assert status != OTHER_ERROR, where
    assert point.error is None or status in (0, STORAGE_ERROR), where
    seen = world.see()
    problem = judge(before, after, seen, in_place=False)
    assert problem is None, f"{where}: {problem}"
    assert status != 0 or seen == after, f"{where}: it said that all went well"
    assert tracer.run(verb, world, is_traced=False) == 0, f"{where}: running it again fails"
    assert world.see() == after, f"{where}: running it again ends elsewhere"
    world.collect_later()
    assert world.leftovers() == [], where


@pytest.mark.parametrize("verb", VERBS)
def test_death_or_error_at_every_system_call_leaves_old_or_new_and_rerun_completes(
    tracer: Tracer, prepared: World, verb: str
) -> None:
    tried = sweep(tracer, prepared, verb, offset=list(VERBS).index(verb), every=EVERY)
    print(f"system calls: {verb}: {sum(tried.values())} points, {dict(tried)}")


def test_sweep_notices_a_writer_that_opens_its_slot_itself(tracer: Tracer, prepared: World) -> None:
    with pytest.raises(Exception, match=r"damaged|log of m|Finding"):
        sweep(tracer, prepared, PLANTED, offset=0, every=1)


COMMANDS: dict[str, list[str]] = {
    "publish": ["publish", "m", "new", "SOURCE"],
    "activate": ["activate", "m", "2"],
    "rollback": ["rollback", "m", "--to", "2"],
    "seal": ["seal", "m", "3"],
    "collect": ["gc"],
}
DEATHS = [
    ("link", 1),
    ("write", 9),
    ("rename", 1),
    ("fsync", 4),
    ("link", 2),
    ("unlink", 1),
    ("mkdir", 1),
    ("fsync", 1),
]


@pytest.mark.parametrize("verb", COMMANDS)
def test_command_that_is_killed_leaves_old_or_new_and_rerun_completes(
    place: Path, prepared: World, tracer: Tracer, verb: str
) -> None:
    """The command line as it is started by people, with its hooks in processes of their own, which may die instead."""
    before = without_evidence(prepared.see())
    undisturbed = prepared.clone(place / f"undisturbed-{next(tracer.numbers)}")
    assert command(undisturbed, verb).returncode == 0
    after = without_evidence(undisturbed.see())
    for call, at in DEATHS[: 2 * SCALE]:
        world = prepared.clone(place / f"world-{next(tracer.numbers)}")
        kill = ["strace", "-f", "-o", str(tracer.log), "-e", f"trace={TRACED}"]
        ended = command(world, verb, *kill, "-e", f"inject={call}:signal=KILL:when={at}")
        seen = without_evidence(world.see())
        problem = judge(before, after, seen, in_place=False)
        assert problem is None, f"{verb}, killed at {call} {at}, ended with {ended.returncode}: {problem}"
        again = command(world, verb)
        assert again.returncode == 0, f"{verb}, killed at {call} {at}: {again.stderr}"
        assert without_evidence(world.see()) == after, f"{verb}, killed at {call} {at}"
        world.remove()


def command(world: World, verb: str, *before: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a registry; the source folder to publish is that of the clone."""
    words = [str(world.source("new")) if word == "SOURCE" else word for word in COMMANDS[verb]]
    settings = {"CLIPPERFS_REGISTRY": str(world.place / "registry"), "CLIPPERFS_CACHE_DIR": str(world.place / "cache")}
    return subprocess.run(
        [*before, sys.executable, "-m", "clipperfs.cli", *words],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def without_evidence(seen: Seen) -> Seen:
    """Leave out what hooks measured, and who acted."""
    kept = ("seq", "op", "state")
    logs = {name: [{field: record[field] for field in kept} for record in log] for name, log in seen.logs.items()}
    return Seen(logs, seen.versions)
