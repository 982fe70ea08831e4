"""Ask a daemon for predictions over HTTP: :class:`Client`."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
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

DEFAULT_URL = "http://127.0.0.1:1337"
JSON_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
RAW_HEADERS = {"Content-Type": "application/octet-stream", "Accept": "application/json", "Clipperfs-Dtype": "uint8"}
"""The element's type has an application that takes no bytes refuse them."""
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
            batch: several inputs, each with its own deadline; instead of ``input``.
            version: ask this version or alias of the linked model instead of the active one.
            key: whom the query is for, such as a user's id: under a rollout, equal keys meet the same version. Without
                one, equal inputs do.

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
        body, headers = _request(input, batch, version, key)
        status, answered, data = self._exchange("POST", f"/{quote(app, safe='')}/predict", body, headers)
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


def _request(
    value: Any, batch: Iterable[Any] | None, version: str | None, key: str | None
) -> tuple[bytes, Mapping[str, str]]:
    """Return the body and the headers of a query. Raises InvalidInput."""
    if isinstance(value, bytes | bytearray | memoryview) and _is_plain(version) and _is_plain(key):
        named = {"Clipperfs-Version": version, "Clipperfs-Key": key}
        return bytes(value), {**RAW_HEADERS, **{name: text for name, text in named.items() if text is not None}}
    query: dict[str, Any] = {"input": value} if batch is None else {"input_batch": list(batch)}
    if version is not None:
        query["version"] = version
    if key is not None:
        query["key"] = key
    try:
        body = json.dumps(query, default=_as_json, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the input cannot be sent as JSON: {error}") from error
    return body, JSON_HEADERS


def _prediction(tree: Any, answered_by: str | None) -> Prediction:
    return Prediction(
        output=tree["output"],
        query_id=tree["query_id"],
        default=tree["default"],
        default_explanation=tree.get("default_explanation"),
        version=None if tree["default"] else tree.get("version", answered_by),
    )


def _is_plain(text: str | None) -> bool:
    """Say whether a text arrives as it is when it is a header."""
    return text is None or (text.isascii() and text.isprintable() and text == text.strip() and text != "")


def _as_json(value: Any) -> Any:
    """Return what a numpy array or scalar, or ``bytes``, is in JSON; numpy itself is not imported."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
