"""Replacing a running daemon by a fresh one without a failed request: the starter's part of it.

The new process asks the running one for its sockets, loads everything beside it, and takes its place when it is ready.
Until then this program holds a pipe to it: whatever ends this program, or its patience, ends the new process, and the
daemon that runs goes on as if nothing had happened.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clipperfs.admin import AdminClient
from clipperfs.daemon_files import SUCCESSOR_SOCKET, DaemonDocument, running_daemon
from clipperfs.daemon_process import Launch, Progress, reap_ended
from clipperfs.errors import ClipperfsError, DaemonStartFailed, InvalidSetting, NotFound, TimedOut

ABANDON_S = 20.0
"""How long a process that nobody wants any more may take to end, or to say that it was ready after all."""


def replace(
    state_dir: Path,
    running: DaemonDocument,
    overrides: dict[str, Any],
    wait_s: float | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Replace the daemon that runs; return the last word of the new one.

    Raises:
        DaemonStartFailed: the new one did not get ready, or the one that runs cannot be replaced; it goes on.
        TimedOut: the new one was not ready in time and was ended.
    """
    settings = successor_settings(running) | overrides
    settings["takes_over"] = str(Path(running.admin_socket).with_name(SUCCESSOR_SOCKET))
    abandoned, wanted = os.pipe()
    try:
        launch = Launch(state_dir, settings | {"abandon_fd": abandoned}, [abandoned])
    except BaseException:
        os.close(wanted)
        raise
    finally:
        os.close(abandoned)
    with launch:
        try:
            word = launch.await_ready(wait_s, progress)
        except TimedOut as error:
            os.close(wanted)
            word = _last_word(launch, state_dir, running, error, wait_s)
        except ClipperfsError as error:
            os.close(wanted)
            raise _kept(state_dir, running, error) from error
        except BaseException:
            os.close(wanted)
            raise
        else:
            os.close(wanted)
    reap_ended()
    return word


def successor_settings(running: DaemonDocument) -> dict[str, Any]:
    """Return the settings with which a daemon would go on in the place of one that runs. Raises DaemonStartFailed."""
    try:
        settings: Any = AdminClient(running.admin_socket).get("/settings")
    except NotFound as error:
        raise DaemonStartFailed(
            f"the daemon that runs (pid {running.pid}) is of a release that cannot be replaced while it serves",
            hint="clipperfs stop, then clipperfs start",
            pid=running.pid,
        ) from error
    if not isinstance(settings, dict):
        raise InvalidSetting("the daemon's answer is not an object", hint="is it another release of clipperfs?")
    if settings.get("foreground"):
        raise DaemonStartFailed(
            f"the daemon that runs (pid {running.pid}) was started in the foreground: whatever started it waits for "
            "that very process, and would take the end of it for the end of the service",
            hint="have the supervisor restart it (for example: systemctl restart), or run it by 'clipperfs start'",
            pid=running.pid,
        )
    return settings


def _last_word(
    launch: Launch, state_dir: Path, running: DaemonDocument, timed_out: TimedOut, wait_s: float | None
) -> dict[str, Any]:
    """Return the word of a daemon that was ready at the last moment. Raises TimedOut."""
    try:
        return launch.await_ready(ABANDON_S)
    except TimedOut:
        launch.process.kill()
    except ClipperfsError:
        pass
    raise TimedOut(
        f"the new daemon was not ready within {wait_s:g} s and was ended; {_state_of(state_dir, running)}",
        hint="'clipperfs logs' shows what took long; give it more time with --wait",
        pid=running.pid,
    ) from timed_out


def _kept(state_dir: Path, running: DaemonDocument, error: ClipperfsError) -> DaemonStartFailed:
    fields = {name: value for name, value in error.fields.items() if name != "pid"}
    return DaemonStartFailed(
        f"the new daemon did not get ready, {_state_of(state_dir, running)}: {error.message}",
        hint=error.hint or "its log says more: clipperfs logs",
        **fields,
        pid=running.pid,
        cause=type(error).__name__,
    )


def _state_of(state_dir: Path, running: DaemonDocument) -> str:
    now = running_daemon(state_dir)
    if now is not None and now.pid == running.pid:
        return f"the one that runs (pid {running.pid}) goes on"
    return "and the one that ran has ended meanwhile" if now is None else f"and another one runs (pid {now.pid})"
