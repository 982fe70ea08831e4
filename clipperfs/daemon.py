"""A serving daemon as an object: start it, stop it, have it watch or reload, ask how it is.

The daemon is a process of its own; this handle finds it through its state folder, so many programs may hold one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from clipperfs.admin import AdminClient
from clipperfs.daemon_files import LOG_FILE as LOG_FILE
from clipperfs.daemon_files import DaemonDocument, default_state_dir, is_locked, running_daemon, start_ticks
from clipperfs.daemon_process import KILL_AFTER_S, SERVERD, Launch, Progress, reap, reap_ended
from clipperfs.daemon_restart import replace
from clipperfs.errors import (
    ClipperfsError,
    DaemonNotRunning,
    DaemonStartFailed,
    InvalidSetting,
    ServingError,
    TimedOut,
)
from clipperfs.store import canonical_url

if TYPE_CHECKING:
    from clipperfs.registry import Registry


class Daemon:
    """The daemon that serves one registry from this host.

    As a context manager it starts a daemon that ends with the block, and with this program.
    """

    def __init__(
        self,
        registry: Registry | str | os.PathLike[str],
        *,
        host: str = "127.0.0.1",
        port: int = 1337,
        admin_port: int | None = 1338,
        frontends: int | Literal["auto"] = 1,
        state_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        models: list[str] | None = None,
        watch: bool = True,
        drain_s: float = 30.0,
        **settings: Any,
    ) -> None:
        """Describe the daemon; nothing is started and nothing is read.

        Args:
            registry: a Registry, or the address of one.
            host: where queries are answered.
            port: the query port; 0 lets the system choose (see :attr:`port` after the start).
            admin_port: loopback port of the read-only admin pages; ``None``: none, 0: the system's choice.
            frontends: frontend processes; ``"auto"``: one for two processors, at most 8.
            state_dir: where the daemon keeps its state; default: one for each registry, in the user's state folder.
            cache_dir: where verified copies of versions are kept; default: the user's cache.
            models: models to serve; ``None``: all.
            watch: whether it follows the registry from the start.
            drain_s: how long it finishes what it has begun when it is told to end.
            **settings: further settings of the daemon process (``poll_s``, ``sweep_s``, ``status_s``, ``name``,
                ``actor``, ``trusted_keys``); an unknown one fails the start.
        """
        address = registry if isinstance(registry, str | os.PathLike) else registry.url
        self.registry = canonical_url(address)
        if cache_dir is None and hasattr(registry, "cache"):
            cache_dir = registry.cache.root
        self.state_dir = Path(state_dir).absolute() if state_dir is not None else default_state_dir(self.registry)
        self.drain_s = drain_s
        self._port = port
        self._settings: dict[str, Any] = {
            "registry": self.registry,
            "state_dir": str(self.state_dir),
            "cache_dir": None if cache_dir is None else str(Path(cache_dir).absolute()),
            "host": host,
            "port": port,
            "admin_port": admin_port,
            "frontends": 0 if frontends == "auto" else frontends,
            "models": models,
            "watch": watch,
            "drain_s": drain_s,
            **settings,
        }
        self._lifeline: int | None = None

    @property
    def log_path(self) -> Path:
        """Return where the daemon's log is."""
        return self.state_dir / LOG_FILE

    @property
    def port(self) -> int:
        """Return the port of the running daemon, or else the one that was asked for."""
        document = running_daemon(self.state_dir)
        return document.port if document else self._port

    def start(
        self, wait_s: float | None = 60.0, *, detached: bool = True, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Start the daemon and wait until it is ready: it listens, and every active version is loaded or has failed.

        Args:
            wait_s: how long to wait; ``None``: for as long as it takes.
            detached: whether it outlives this program. If not, it drains and ends with this program or object.
            progress: called with what the daemon tells while it starts.

        Returns:
            Its last word: ``pid``, ``port``, ``admin_port``, and ``failed``, the versions that could not be loaded.

        Raises:
            DaemonAlreadyRunning: one runs with this state folder; ``fields`` name its pid and port.
            DaemonStartFailed: it ended before it was ready; the message has the end of its log.
            TimedOut: it was not ready in time; it goes on starting.
            ClipperfsError: what kept it from starting, such as NotFound for a registry that is not there.
        """
        reap_ended()
        inherited: list[int] = []
        settings = dict(self._settings)
        if not detached:
            settings["lifeline_fd"], self._lifeline = os.pipe()
            inherited.append(settings["lifeline_fd"])
        try:
            launch = Launch(self.state_dir, settings, inherited)
        except BaseException:
            self._drop_lifeline()
            raise
        finally:
            for descriptor in inherited:
                os.close(descriptor)
        with launch:
            try:
                return launch.await_ready(wait_s, progress)
            except TimedOut:
                raise
            except ClipperfsError:
                self._drop_lifeline()
                raise

    def restart(
        self, wait_s: float | None = 60.0, *, progress: Progress | None = None, **settings: Any
    ) -> dict[str, Any]:
        """Replace the running daemon by a fresh one, without a failed request.

        The new one is started beside it, takes over its listening sockets, loads everything, and takes its place when
        all of it is ready. Then the old one drains and ends by itself. Until then nothing changes for anybody; for a
        while both need memory.

        Args:
            wait_s: how long the new one may take to get ready; ``None``: as long as it takes.
            progress: called with what the new one tells while it starts.
            **settings: replace settings with which the running one was started, under the names that this class's
                constructor gives them. Those of this handle do not count.

        Returns:
            The new daemon's last word, as :meth:`start` does.

        Raises:
            DaemonNotRunning: there is none: there would be no settings to start one with.
            DaemonStartFailed: the new one could not get ready, or the one that runs cannot be replaced (it is of an
                older release, or in the foreground). It goes on.
            TimedOut: the new one was not ready in time and was ended. The one that runs goes on.
        """
        reap_ended()
        if "state_dir" in settings or "registry" in settings:
            raise InvalidSetting("a daemon keeps its registry and its state folder", hint="stop it and start another")
        if settings.get("frontends") == "auto":
            settings["frontends"] = 0
        if settings.get("cache_dir") is not None:
            settings["cache_dir"] = str(Path(settings["cache_dir"]).absolute())
        running = self._find()
        if running is None:
            raise self._not_running()
        if running.registry != self.registry:
            raise InvalidSetting(
                f"the daemon of {self.state_dir} serves {running.registry}, not {self.registry}",
                hint="a daemon keeps its registry; stop it and start another",
            )
        return replace(self.state_dir, running, settings, wait_s, progress)

    def stop(self, drain_s: float | None = None) -> bool:
        """End the daemon: it finishes what it has begun, at most ``drain_s`` seconds, then stops its replicas.

        Returns:
            Whether there was one. Whoever holds its process id now is never signalled: the lock and the moment at which
            the process began must agree.

        Raises:
            ServingError: it cannot be ended.
        """
        drain_s = self.drain_s if drain_s is None else drain_s
        document = self._find()
        if document is None:
            return False
        try:
            handle = os.pidfd_open(document.pid)
        except ProcessLookupError:
            return True
        try:
            if start_ticks(document.pid) != document.started_ticks:
                return True
            try:
                self._admin(document).post("/stop", {"drain_s": drain_s})
            except ClipperfsError:
                _signal(handle, signal.SIGTERM)
            if not _has_ended(handle, drain_s + KILL_AFTER_S):
                _signal(handle, signal.SIGTERM)
                if not _has_ended(handle, KILL_AFTER_S):
                    _signal(handle, signal.SIGKILL)
                    if not _has_ended(handle, KILL_AFTER_S):
                        raise ServingError(f"the daemon (pid {document.pid}) cannot be ended, not even by SIGKILL")
        finally:
            os.close(handle)
        reap(document.pid)
        self._drop_lifeline()
        reap_ended()
        return True

    def watch(self, *, timeout_s: float | None = None) -> Iterator[dict[str, Any]]:
        """Make the daemon follow the registry, and yield what happens until it ends or the iterator is closed.

        A daemon that takes its place is watched on.

        Raises:
            DaemonNotRunning: there is none.
            TimedOut: nothing happened for ``timeout_s``.
        """
        heard: int | None = None
        while True:
            document = running_daemon(self.state_dir)
            if heard is not None and (document is None or document.pid == heard):
                return
            admin = self._admin(document)
            heard = document.pid if document is not None else None
            with admin.events(timeout_s=timeout_s) as events:
                admin.post("/watch", {"follow": True})
                yield from events

    def follow(self, follow: bool = True) -> dict[str, Any]:
        """Make the daemon follow the registry, or stop following it. Raises DaemonNotRunning."""
        return self._mapping(self._admin().post("/watch", {"follow": follow}))

    def reload(self, model: str | None = None, *, wait_s: float = 600.0) -> dict[str, Any]:
        """Have the daemon read the registry now, and wait until it has loaded what it found.

        A version that failed before gets another try.

        Returns:
            ``changes``, what took effect, and ``failed``, the versions that could not be loaded, each with a reason.

        Raises:
            DaemonNotRunning: there is none.
            NotFound: the daemon does not serve ``model``.
            StorageError: the registry cannot be read; what is served goes on being served.
            TimedOut: it took longer than ``wait_s``.
        """
        return self._mapping(self._admin().post("/reload", {"model": model}, timeout_s=wait_s))

    def status(self) -> dict[str, Any]:
        """Return what the daemon serves, and in which state each part is. Raises DaemonNotRunning."""
        return self._mapping(self._admin().get("/status"))

    def metrics(self) -> str:
        """Return the daemon's metrics in the text format of Prometheus. Raises DaemonNotRunning."""
        return self._admin().get_text("/metrics")[1]

    def is_running(self) -> bool:
        """Say whether a daemon runs with this state folder."""
        return running_daemon(self.state_dir) is not None

    def run(self) -> NoReturn:
        """Become the daemon: replace this program by it, in the foreground, its log on stderr.

        Raises:
            DaemonStartFailed: this program cannot be replaced.
        """
        given = os.memfd_create("clipperfs-settings")
        os.write(given, json.dumps(self._settings | {"foreground": True}).encode())
        os.lseek(given, 0, os.SEEK_SET)
        os.dup2(given, 0)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.execv(sys.executable, [sys.executable, "-P", "-m", SERVERD])  # noqa: S606
        except OSError as error:
            raise DaemonStartFailed(f"{sys.executable} cannot be run: {error}") from error

    def __enter__(self) -> Daemon:
        try:
            self.start(detached=False)
        except TimedOut:
            self.stop(0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _find(self) -> DaemonDocument | None:
        """Return the running daemon; wait for one that is just starting or ending to say who it is."""
        give_up_s = time.monotonic() + 2.0
        while is_locked(self.state_dir):
            document = running_daemon(self.state_dir)
            if document is not None:
                return document
            if time.monotonic() > give_up_s:
                raise ServingError(
                    f"somebody holds {self.state_dir} but does not say who",
                    hint="a daemon is just starting or ending; try again, or see 'fuser' on its lock file",
                )
            select.select([], [], [], 0.02)
        return None

    def _admin(self, document: DaemonDocument | None = None) -> AdminClient:
        document = document or running_daemon(self.state_dir)
        if document is None:
            raise self._not_running()
        return AdminClient(document.admin_socket)

    def _not_running(self) -> DaemonNotRunning:
        return DaemonNotRunning(
            f"no daemon runs for {self.registry} on this host",
            hint="start one with: clipperfs start",
            state_dir=str(self.state_dir),
        )

    def _drop_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    @staticmethod
    def _mapping(answer: Any) -> dict[str, Any]:
        if not isinstance(answer, dict):
            raise InvalidSetting("the daemon's answer is not an object", hint="is it another release of clipperfs?")
        return answer


def _signal(handle: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _has_ended(handle: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))
