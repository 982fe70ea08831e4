"""A process that has imported everything, and forks one that waits to be traced for each verb: starting costs nothing.

Started by ``test_syscall_sweep.py``, which writes one line ``verb<TAB>place`` for each run, and reads the number of the
process, then its exit status.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from clipperfs import Registry
from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import Verdict
from clipperfs.errors import StorageError
from clipperfs.store.local import LocalStore
from clipperfs.store.oserror import told_plainly
from tests.integration.fault_world import VERBS, World

STORAGE_ERROR, OTHER_ERROR = 3, 5
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, -1


def careless(world: World, registry: Registry) -> None:
    """Append a record as a writer does that opens its slot itself: the name appears before the content."""

    def create(self: LocalStore, key: str, data: bytes) -> bool:
        path = self._path(key)
        with told_plainly("create", key):
            self._make_folder(path.parent)
            with open(path, "xb") as stream:
                stream.write(data)
        return True

    LocalStore.create = create  # type: ignore[method-assign]
    registry.policy("m", {"replicas": 3})


PLANTED = "policy, by a careless writer"


def answer(request: CheckRequest) -> list[Verdict]:
    """Let hooks pass at once: they are processes of their own, which have their own tests."""
    return [Verdict(hook=hook.name, outcome="passed") for hook in request.hooks]


def run(verb: str, place: Path) -> int:
    """Run a verb on the registry in ``place``; return the exit status."""
    runner.run_hooks = answer
    try:
        world = World(place, "local")
        registry = Registry(place / "registry", cache_dir=place / "cache", actor="tester")
        (careless if verb == PLANTED else VERBS[verb])(world, registry)
    except StorageError:
        return STORAGE_ERROR
    except BaseException:
        traceback.print_exc()
        return OTHER_ERROR
    return 0


def main() -> None:
    """Serve until the input ends."""
    libc = ctypes.CDLL(None)
    for line in sys.stdin:
        verb, place = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            libc.prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(run(verb, Path(place)))
        os.waitpid(child, os.WUNTRACED)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
