"""The replica process: reads its spec, loads one version's wrapper, and serves it to its peers.

Started as ``python -P -m clipperfs.replica.host PARENT_PID`` with a ReplicaSpec on stdin. Where stdin is a socket it is
a spare: it has imported everything that is not a model's, and waits there for a spec, a log and a folder
(``clipperfs/replica/spare.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import resource
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn, cast

from clipperfs import wire
from clipperfs.plugins import load_plugin, plugin_names
from clipperfs.replica.conversation import Conversation, Stop, log_traceback
from clipperfs.replica.spec import SPARE_IS_WARM, ReplicaSpec, failure_reason
from clipperfs.wrapper import LoadContext, Wrapper

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_SPARE_NAME = b"clipperfs-spare"
_GOODBYE_S = 1.0


def main() -> NoReturn:
    """Live the whole life of a replica. Exits with 0 when asked to leave, with 1 when the wrapper does not load."""
    _die_with(int(sys.argv[1]))
    if stat.S_ISSOCK(os.fstat(0).st_mode):
        _await_work()
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


def _await_work() -> None:
    """Be a spare until work comes, then be as if started with it. Exits with 0 when whoever keeps spares is gone."""
    libc = ctypes.CDLL(None)
    own_name = ctypes.create_string_buffer(16)
    libc.prctl(_PR_GET_NAME, own_name, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, _SPARE_NAME, 0, 0, 0)  # for ps: a spare is no replica
    plugin_names("clipperfs.wrappers")  # what is installed is read once in a process; nothing of it is imported
    importlib.import_module("clipperfs.layout")  # the built-in wrappers use it
    with socket.socket(fileno=os.dup(0)) as keeper:
        with contextlib.suppress(OSError):  # work may have come already, and the keeper hung up
            keeper.send(SPARE_IS_WARM)
        message, descriptors, _, _ = socket.recv_fds(keeper, 1, 3, socket.MSG_CMSG_CLOEXEC)
    if not message:
        os._exit(0)
    spec, log, folder = descriptors
    for descriptor, place in ((spec, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    os.fchdir(folder)
    for descriptor in descriptors:
        os.close(descriptor)
    libc.prctl(_PR_SET_NAME, own_name, 0, 0, 0)


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
