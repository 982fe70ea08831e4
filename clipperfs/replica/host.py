"""The replica process: reads its spec, loads one version's wrapper, and serves it to its peers.

Started as ``python -P -m clipperfs.replica.host PARENT_PID`` with a ReplicaSpec on stdin.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn, cast

from clipperfs import wire
from clipperfs.plugins import load_plugin
from clipperfs.replica.conversation import Conversation, Stop, log_traceback
from clipperfs.replica.spec import ReplicaSpec, failure_reason
from clipperfs.wrapper import LoadContext, Wrapper

_PR_SET_PDEATHSIG = 1
_GOODBYE_S = 1.0


def main() -> NoReturn:
    """Live the whole life of a replica. Exits with 0 when asked to leave, with 1 when the wrapper does not load."""
    _die_with(int(sys.argv[1]))
    spec = ReplicaSpec.from_bytes(sys.stdin.buffer.read())
    _settle_process()
    peers = Conversation(spec)

    def on_terminate(number: int, frame: Any) -> None:
        peers.stopping = True
        if peers.waiting:
            raise Stop

    signal.signal(signal.SIGTERM, on_terminate)
    code = 0
    try:
        peers.tell_state(wire.LOADING)
        wrapper = load_wrapper(spec)  # may be given up at any moment
        peers.waiting = False
        peers.tell_state(wire.READY)
        peers.serve(wrapper)
    except Stop:
        pass
    except BaseException as error:
        peers.waiting = False
        log_traceback(error)
        peers.tell_state(wire.FAILED, failure_reason(error))
        peers.await_goodbye(_GOODBYE_S)
        code = 1
    peers.waiting = False
    peers.finish()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # threads and exit handlers of a framework must not hold up the end


def load_wrapper(spec: ReplicaSpec) -> Wrapper:
    """Return the version's wrapper, loaded. Raises whatever the wrapper raises, LoadFailed and InvalidSetting."""
    wrapper = cast("Wrapper", load_plugin("clipperfs.wrappers", spec.wrapper_kind)())
    wrapper.load(
        LoadContext(
            path=Path(spec.path),
            model=spec.model,
            version=spec.version,
            input_type=spec.input_type,
            allow_code=spec.allow_code,
            options=spec.options,
        )
    )
    return wrapper


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; leave at once if that has happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _settle_process() -> None:
    """Point stdin at nothing, make prints appear in the log line by line, and crashes leave a stack, not a core."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(all_threads=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
