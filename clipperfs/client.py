"""Ask a daemon for predictions over HTTP: :class:`Client`."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, overload
from urllib.parse import quote, urlsplit

from clipperfs.errors import (
    DaemonNotRunning,
    InvalidInput,
    InvalidSetting,
    NotFound,
    ServingError,
    TimedOut,
)
from clipperfs.query_body import json_body, raw_body, raw_dtype

DEFAULT_URL = "http://127.0.0.1:1337"
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
"""What a kept connection shows when the daemon closed it while it was idle."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer."""

    output: Any
    query_id: int
    default: bool
    """Whether ``output`` is the application's default output, because there was no prediction in time."""
    default_explanation: str | None = None
    version: str | None = None
    """The version that answered, when one did."""


class Client:
    """Asks the daemon at one address. Keeps connections alive. May be shared by threads.

    Use it as a context manager, or call :meth:`close`::

        with Client("http://127.0.0.1:1337") as client:
            client.predict("digit-reader", [0.0, 0.5, 1.0]).output
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = 60.0) -> None:
        """Make a client. Does no I/O.

        Args:
            url: address of the daemon's query port; a path in it is put before every request's.
            timeout_s: how long to wait for the daemon, beyond any latency objective.

        Raises:
            InvalidSetting: not an ``http://`` or ``https://`` address.
        """
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise InvalidSetting(f"{url!r} is not an address: {error}", hint=f"such as {DEFAULT_URL}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise InvalidSetting(f"{url!r} is not the address of a daemon", hint=f"such as {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._host = parts.hostname
        self._scheme = parts.scheme
        self._prefix = parts.path.rstrip("/")
        self._idle: list[http.client.HTTPConnection] = []
        self._refused: set[tuple[str, str]] = set()
        """Applications, and types of arrays that they do not take as they are."""
        self._lock = threading.Lock()

    @overload
    def predict(self, app: str, input: Any, *, version: str | None = ..., key: str | None = ...) -> Prediction: ...

    @overload
    def predict(
        self, app: str, *, batch: Iterable[Any], version: str | None = ..., key: str | None = ...
    ) -> list[Prediction]: ...

    def predict(
        self,
        app: str,
        input: Any = None,  # noqa: A002  (the word of the query API)
        *,
        batch: Iterable[Any] | None = None,
        version: str | None = None,
        key: str | None = None,
    ) -> Prediction | list[Prediction]:
        """Ask an application for the prediction of one input, or of each input of a batch.

        Args:
            app: name of the application.
            input: one input: a list of numbers or a numpy array, a text, or ``bytes``, such as an image's file (sent as
                they are; in a batch as base64).
            batch: several inputs, each with its own deadline; instead of ``input``. Rows of one numpy array are quicker
                than a list of arrays.
            version: ask this version or alias of the linked model instead of the active one.
            key: whom the query is for, such as a user's id: under a rollout, equal keys meet the same version. Without
                one, equal inputs do.

        An array whose type is the application's (``int32`` for ints, ``float32`` for floats, ``float64`` for doubles,
        ``uint8`` for bytes) is sent as it lies in memory, which costs a tenth of JSON where there are many numbers. NaN
        and infinity then reach the model. One of another type is sent as JSON.

        Returns:
            One prediction, or one for each input of the batch, in the same order. An answer by the latency objective,
            always: look at ``default`` to tell a prediction from the default output.

        Raises:
            InvalidInput: the input does not fit the application's input type, or cannot be sent as JSON.
            NotFound: no such application.
            DaemonNotRunning: nothing listens at this address.
            TimedOut: no answer within ``timeout_s``.
            ServingError: the daemon is shutting down, or what answers is not a daemon.
        """
        if (input is None) == (batch is None):
            raise InvalidInput(
                "give either one input or a batch", hint="predict(app, input) or predict(app, batch=[…])"
            )
        status, answered, data = self._ask(app, input, batch, version, key)
        tree = self._reply(status, data, app)
        answered_by = answered.get("Clipperfs-Version")
        try:
            if batch is None:
                return _prediction(tree, answered_by)
            return [_prediction(each, answered_by) for each in tree["batch_predictions"]]
        except (KeyError, TypeError) as error:
            raise self._not_a_daemon(f"a reply without {error}") from error

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self, app: str, value: Any, batch: Iterable[Any] | None, version: str | None, key: str | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a query in the form that costs least of those that the application takes."""
        path = f"/{quote(app, safe='')}/predict"
        array: Any = value if batch is None else batch
        dtype = raw_dtype(array, 1 if batch is None else 2)
        if dtype is not None and (app, dtype) not in self._refused:
            raw = raw_body(array.tobytes(), version, key, dtype, array.shape)
            if raw is not None:
                reply = self._exchange("POST", path, *raw)
                if not _is_form_refused(reply[0], reply[2]):
                    return reply
                self._refused.add((app, dtype))
        if isinstance(value, bytes | bytearray | memoryview):
            raw = raw_body(bytes(value), version, key)
            if raw is not None:
                return self._exchange("POST", path, *raw)
        return self._exchange("POST", path, *json_body(value, batch, version, key))

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request and read the whole reply; a connection that went stale while idle is replaced once."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        try:
            if kept is not None:
                try:
                    return self._attempt(kept, method, path, body, headers)
                except _STALE:
                    pass
            return self._attempt(self._connect(), method, path, body, headers)
        except TimeoutError as error:
            raise TimedOut(
                f"{self.url} did not answer within {self.timeout_s:g} s", hint="look at: clipperfs status"
            ) from error
        except (ConnectionRefusedError, socket.gaierror) as error:
            raise DaemonNotRunning(
                f"nothing answers at {self.url}: {error.strerror}", hint="start a daemon with: clipperfs start"
            ) from error
        except _STALE as error:
            raise ServingError(f"{self.url} closed the connection without an answer") from error
        except http.client.HTTPException as error:
            raise self._not_a_daemon(f"{type(error).__name__}: {error}") from error
        except OSError as error:
            raise DaemonNotRunning(f"{self.url} cannot be reached: {error.strerror or error}") from error

    def _attempt(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        try:
            connection.request(method, self._prefix + path, body=body, headers=headers)
            reply = connection.getresponse()
            data = reply.read()
        except BaseException:
            connection.close()
            raise
        if reply.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)
        return reply.status, reply.headers, data

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self.timeout_s)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _reply(self, status: int, data: bytes, app: str) -> Any:
        try:
            tree = json.loads(data)
        except ValueError as error:
            if status == 404:
                raise self._no_application(app) from error
            raise self._not_a_daemon(f"status {status} and a body that is not JSON") from error
        if status == 200:
            return tree
        problem, cause = (tree.get("error"), tree.get("cause")) if isinstance(tree, dict) else (None, None)
        said = str(cause or problem or f"status {status}")
        if status == 404:
            raise self._no_application(app)
        if status == 413:
            raise InvalidInput(
                said, hint="send less at a time, or start the daemon with a larger --max-body", status=status
            )
        if 400 <= status < 500:
            raise InvalidInput(
                said, hint=f"application {app} has an input type: clipperfs app show {app}", status=status
            )
        raise ServingError(f"{self.url} answered with status {status}: {said}", status=status)

    def _no_application(self, app: str) -> NotFound:
        return NotFound(f"{self.url} knows no application {app!r}", hint="list them with: clipperfs app list", app=app)

    def _not_a_daemon(self, what: str) -> ServingError:
        return ServingError(f"{self.url} does not answer as a clipperfs daemon does ({what})", hint="check the address")


def _is_form_refused(status: int, data: bytes) -> bool:
    """Say whether a reply refuses the form of a raw input, and not the input."""
    if status != 400:
        return status == 415
    try:
        tree = json.loads(data)
    except ValueError:
        return False
    # A daemon that knows no raw inputs takes them for JSON.
    return isinstance(tree, dict) and (
        tree.get("error") == "Json error" or str(tree.get("cause")).startswith("Clipperfs-Dtype")
    )


def _prediction(tree: Any, answered_by: str | None) -> Prediction:
    return Prediction(
        output=tree["output"],
        query_id=tree["query_id"],
        default=tree["default"],
        default_explanation=tree.get("default_explanation"),
        version=None if tree["default"] else tree.get("version", answered_by),
    )
