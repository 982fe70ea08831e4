"""The client of a daemon's admin interface: JSON over HTTP on a unix socket that only its owner can open."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipperfs import errors
from clipperfs.errors import ClipperfsError, DaemonNotRunning, ServingError, TimedOut

DEFAULT_TIMEOUT_S = 10.0


class AdminClient:
    """Talks to one daemon. A connection for each request; safe from several threads.

    Every method raises DaemonNotRunning when nobody listens on the socket, TimedOut when the daemon does not answer in
    time, and the daemon's own error when it refuses.
    """

    def __init__(self, socket_path: str | Path) -> None:
        self.socket_path = str(socket_path)

    def get(self, path: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
        """Return what ``GET path`` answers, parsed."""
        return self._ask("GET", path, None, timeout_s)

    def post(self, path: str, body: dict[str, Any], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
        """Return what ``POST path`` answers, parsed."""
        return self._ask("POST", path, body, timeout_s)

    def get_text(self, path: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[int, str]:
        """Return the status code and the body of ``GET path`` as text, whatever they are."""
        with self._connection(timeout_s) as connection, self._told_plainly(timeout_s):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")

    @contextlib.contextmanager
    def events(self, *, timeout_s: float | None = None) -> Iterator[Iterator[dict[str, Any]]]:
        """Open the stream of events; the block's value yields one event at a time until the daemon ends.

        Args:
            timeout_s: raise TimedOut when nothing at all comes for this long; ``None``: wait for ever.
        """
        with self._connection(DEFAULT_TIMEOUT_S) as connection:
            with self._told_plainly(DEFAULT_TIMEOUT_S):
                connection.request("GET", "/events")
                response = connection.getresponse()
                if response.status != 200:
                    raise _error_of(response.status, response.read())
                assert connection.sock is not None
                connection.sock.settimeout(timeout_s)
            yield self._lines(response, timeout_s)

    def _lines(self, response: http.client.HTTPResponse, timeout_s: float | None) -> Iterator[dict[str, Any]]:
        while True:
            try:
                line = response.readline()
            except TimeoutError as error:
                raise TimedOut(f"the daemon reported nothing for {timeout_s} s") from error
            except (OSError, http.client.HTTPException):
                return
            if not line:
                return
            if line.strip():
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> Any:
        with self._connection(timeout_s) as connection, self._told_plainly(timeout_s):
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            response = connection.getresponse()
            answer = response.read()
            if response.status >= 400:
                raise _error_of(response.status, answer)
            return json.loads(answer)

    @contextlib.contextmanager
    def _connection(self, timeout_s: float) -> Iterator[_UnixConnection]:
        connection = _UnixConnection(self.socket_path, timeout_s)
        try:
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def _told_plainly(self, timeout_s: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise TimedOut(
                f"the daemon did not answer within {timeout_s:g} s", hint="its log says what it does: clipperfs logs"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DaemonNotRunning(
                f"no daemon answers at {self.socket_path} ({error})", hint="start one with: clipperfs start"
            ) from error


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


def error_from_document(document: Any, *, fallback: str) -> ClipperfsError:
    """Return the error that :meth:`ClipperfsError.as_document` described; ServingError for what is not known."""
    if not isinstance(document, dict):
        return ServingError(fallback)
    rest = dict(document)
    kind = getattr(errors, str(rest.pop("error", "")), None)
    message = str(rest.pop("message", None) or rest.pop("cause", None) or fallback)
    hint = rest.pop("hint", None)
    if not (isinstance(kind, type) and issubclass(kind, ClipperfsError)):
        kind = ServingError
    return kind(message, hint=hint, **{str(name): value for name, value in rest.items()})


def _error_of(status: int, body: bytes) -> ClipperfsError:
    fallback = f"the daemon answered with status {status}"
    try:
        return error_from_document(json.loads(body), fallback=fallback)
    except ValueError:
        return ServingError(fallback)
