"""The HTTP client against a server that says what the test wants: replies, keep-alive, and every way to fail."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from clipperfs.client import Client, Prediction
from clipperfs.errors import DaemonNotRunning, InvalidInput, InvalidSetting, NotFound, ServingError, TimedOut


class Daemon(ThreadingHTTPServer):
    """Answers like a daemon, with what ``answer`` holds."""

    daemon_threads = True
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.answer: bytes = b"{}"
        self.raw_reply: tuple[int, bytes] | None = None
        """What bodies that are not JSON get instead."""
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[str, Any]] = []
        self.named: dict[str, str] = {}
        self.connections = 0
        self.drop_after_reply = False
        self.hang_s = 0.0
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is what some of these tests are about."""

    def reply(self, status: int = 200, **tree: Any) -> None:
        self.status, self.answer = status, json.dumps(tree).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Daemon

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_json = self.headers["Content-Type"] == "application/json"
        self.server.seen.append((self.path, json.loads(body) if is_json else body))
        self.server.named = {name: text for name, text in self.headers.items() if name.startswith("Clipperfs-")}
        if self.server.hang_s:
            self.server.released.wait(self.server.hang_s)
        status, answer = self.server.status, self.server.answer
        if self.server.raw_reply is not None and not is_json:
            status, answer = self.server.raw_reply
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.close_connection = self.server.drop_after_reply

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    server = Daemon()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.socket.close()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.url, timeout_s=5.0) as one:
        yield one


def test_input_is_sent_and_the_prediction_returned(daemon: Daemon, client: Client) -> None:
    daemon.reply(query_id=7, output=[1, 2], default=False)
    daemon.headers["Clipperfs-Version"] = "2"
    answer = client.predict("digit-reader", [0.5, 1])
    assert answer == Prediction(output=[1, 2], query_id=7, default=False, version="2")
    assert daemon.seen == [("/digit-reader/predict", {"input": [0.5, 1]})]


def test_batch_is_sent_as_one_and_answered_in_order(daemon: Daemon, client: Client) -> None:
    replies: list[dict[str, Any]] = [{"query_id": n, "output": n, "default": n == 1} for n in range(2)]
    replies[1]["default_explanation"] = "late"
    daemon.reply(batch_predictions=replies)
    first, second = client.predict("a", batch=iter([[1], [2]]), version="stable")
    assert daemon.seen == [("/a/predict", {"input_batch": [[1], [2]], "version": "stable"})]
    assert (first.output, first.default, second.default, second.default_explanation) == (0, False, True, "late")


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (np.array([1, 2], dtype=np.int64), [1, 2]),
        (np.array([1.5, 2], dtype=">f8"), [1.5, 2.0]),
        (np.array([[1.5, 2]], dtype=np.float32), [[1.5, 2.0]]),
        (np.ma.array([1.5, 2], mask=[False, True]), [1.5, None]),
        (np.array([], dtype=np.float64), []),
        ([np.int32(1), np.int32(2)], [1, 2]),
        ("Grüße", "Grüße"),
        ((1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        ([], []),
        (0, 0),
    ],
)
def test_input_of_python_is_sent_as_json(daemon: Daemon, client: Client, value: Any, sent: Any) -> None:
    daemon.reply(query_id=1, output=0, default=False)
    client.predict("a", value)
    assert daemon.seen[0][1] == {"input": sent}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_sent_as_they_are_and_say_that_they_are_bytes(daemon: Daemon, client: Client, kind: Any) -> None:
    daemon.reply(query_id=1, output="cat", default=False)
    assert client.predict("a", kind(b"\x00\xff"), version="2", key="u 1").output == "cat"
    assert daemon.seen == [("/a/predict", b"\x00\xff")]
    assert daemon.named == {"Clipperfs-Dtype": "uint8", "Clipperfs-Version": "2", "Clipperfs-Key": "u 1"}


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([1.5, 2, 3], dtype=np.float32), "float32"),
        (np.arange(6.0)[::2], "float64"),
        (np.array([1, 2, -3], dtype=np.int32), "int32"),
        (np.array([0, 255, 3], dtype=np.uint8), "uint8"),
    ],
)
def test_array_is_sent_as_it_lies(daemon: Daemon, client: Client, array: Any, dtype: str) -> None:
    daemon.reply(query_id=1, output=3, default=False)
    assert client.predict("a", array, version="2", key="u 1").output == 3
    assert daemon.seen == [("/a/predict", array.tobytes())]
    named = {"Clipperfs-Dtype": dtype, "Clipperfs-Shape": "3", "Clipperfs-Version": "2", "Clipperfs-Key": "u 1"}
    assert daemon.named == named


def test_rows_of_an_array_are_sent_as_a_batch(daemon: Daemon, client: Client) -> None:
    daemon.reply(batch_predictions=[{"query_id": n, "output": n, "default": False} for n in range(2)])
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert [one.output for one in client.predict("a", batch=rows)] == [0, 1]
    assert (daemon.seen, daemon.named["Clipperfs-Shape"]) == ([("/a/predict", rows.tobytes())], "2,3")
    client.predict("a", batch=rows, key="Grüße")
    assert daemon.seen[1][1] == {"input_batch": [[0, 1, 2], [3, 4, 5]], "key": "Grüße"}


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        (400, "Query processing error", "Clipperfs-Dtype says float64; for floats float32 is expected"),
        (400, "Json error", "the body is not JSON"),
        (415, "Body error", "that is not read"),
    ],
)
def test_form_that_is_not_taken_is_left_for_json_and_not_tried_again(
    daemon: Daemon, client: Client, status: int, error: str, cause: str
) -> None:
    daemon.raw_reply = status, json.dumps({"error": error, "cause": cause}).encode()
    daemon.reply(query_id=1, output=3, default=False)
    array = np.array([0.5, 1])
    for app in ("a", "a", "b"):
        assert client.predict(app, array).output == 3
    as_json = {"input": [0.5, 1.0]}
    assert [body for _, body in daemon.seen] == [array.tobytes(), as_json, as_json, array.tobytes(), as_json]


def test_array_that_does_not_fit_is_refused_at_once(daemon: Daemon, client: Client) -> None:
    daemon.reply(400, error="Query processing error", cause="model m expects 3 elements in an input, not 2")
    with pytest.raises(InvalidInput, match="expects 3 elements"):
        client.predict("a", np.array([0.5, 1]))
    assert len(daemon.seen) == 1


@pytest.mark.parametrize("key", ["Grüße", "a\r\nb", " a", ""])
def test_bytes_with_a_key_that_no_header_holds_are_sent_as_base64(daemon: Daemon, client: Client, key: str) -> None:
    daemon.reply(query_id=1, output="cat", default=False)
    client.predict("a", b"\x00\xff", key=key)
    assert daemon.seen == [("/a/predict", {"input": "AP8=", "key": key})]


def test_bytes_in_a_batch_are_sent_as_base64(daemon: Daemon, client: Client) -> None:
    daemon.reply(batch_predictions=[{"query_id": 1, "output": 1, "default": False}])
    client.predict("a", batch=[b"\x00\xff"])
    assert daemon.seen == [("/a/predict", {"input_batch": ["AP8="]})]


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], object(), {1, 2}])
def test_input_without_a_form_in_json_is_refused_before_it_is_sent(daemon: Daemon, client: Client, value: Any) -> None:
    with pytest.raises(InvalidInput):
        client.predict("a", value)
    assert daemon.seen == []


def test_neither_or_both_of_input_and_batch_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput):
        client.predict("a")  # type: ignore[call-overload]
    with pytest.raises(InvalidInput):
        client.predict("a", 1, batch=[1])  # type: ignore[call-overload]


def test_name_of_an_application_cannot_leave_its_place(daemon: Daemon, client: Client) -> None:
    daemon.reply(query_id=1, output=0, default=False)
    client.predict("../x?y#z", 1)
    assert daemon.seen[0][0] == "/..%2Fx%3Fy%23z/predict"


def test_connection_is_kept_between_predictions(daemon: Daemon, client: Client) -> None:
    daemon.reply(query_id=1, output=0, default=False)
    for _ in range(5):
        client.predict("a", 1)
    assert daemon.connections == 1


def test_connection_that_was_closed_while_idle_is_replaced(daemon: Daemon, client: Client) -> None:
    daemon.reply(query_id=1, output=0, default=False)
    daemon.drop_after_reply = True  # without saying so: the client finds out when it asks again
    for _ in range(3):
        client.predict("a", 1)
    assert (len(daemon.seen), daemon.connections) == (3, 3)


def test_threads_share_a_client(daemon: Daemon, client: Client) -> None:
    daemon.reply(query_id=1, output=0, default=False)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                client.predict("a", 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(daemon.seen) == 80
    assert daemon.connections <= 4


def test_body_over_the_limit_is_told_how_to_raise_it(daemon: Daemon, client: Client) -> None:
    daemon.reply(413, error="Request refused", cause="the body is larger than 10 bytes")
    with pytest.raises(InvalidInput, match="larger than 10 bytes") as caught:
        client.predict("a", b"x" * 11)
    assert "--max-body" in str(caught.value.hint)


def test_refused_input_says_the_cause(daemon: Daemon, client: Client) -> None:
    daemon.reply(400, error="Request error", cause="input is a text, not doubles")
    with pytest.raises(InvalidInput, match="input is a text, not doubles"):
        client.predict("a", "x")


def test_unknown_application_is_not_found(daemon: Daemon, client: Client) -> None:
    daemon.reply(404, error="No such application", cause="a")
    with pytest.raises(NotFound) as caught:
        client.predict("a", 1)
    assert caught.value.fields["app"] == "a"


@pytest.mark.parametrize("status", [500, 503])
def test_failure_of_the_daemon_is_a_serving_error(daemon: Daemon, client: Client, status: int) -> None:
    daemon.reply(status, error="draining", cause="the daemon is ending")
    with pytest.raises(ServingError, match="the daemon is ending"):
        client.predict("a", 1)


@pytest.mark.parametrize("answer", [b"<html>", b"", b"[]", b"{}", b'{"output": 1}', b"null", b"1"])
def test_reply_of_something_else_is_a_serving_error(daemon: Daemon, client: Client, answer: bytes) -> None:
    daemon.answer = answer
    with pytest.raises(ServingError):
        client.predict("a", 1)
    with pytest.raises(ServingError):
        client.predict("a", batch=[1])


def test_nobody_listening_says_how_to_start_a_daemon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with Client(f"http://127.0.0.1:{taken.getsockname()[1]}") as one, pytest.raises(DaemonNotRunning) as caught:
            one.predict("a", 1)
    assert "clipperfs start" in (caught.value.hint or "")


def test_silence_times_out(daemon: Daemon) -> None:
    daemon.reply(query_id=1, output=0, default=False)
    daemon.hang_s = 10.0
    with Client(daemon.url, timeout_s=0.1) as one, pytest.raises(TimedOut):
        one.predict("a", 1)


def test_reply_cut_short_is_a_serving_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_half() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

        thread = threading.Thread(target=answer_half)
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as one, pytest.raises(ServingError):
            one.predict("a", 1)
        thread.join()


def test_server_that_hangs_up_without_an_answer_is_a_serving_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)

        thread = threading.Thread(target=hang_up)
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as one, pytest.raises(ServingError):
            one.predict("a", 1)
        thread.join()


@pytest.mark.parametrize(
    "url", ["", "localhost:1337", "ftp://x", "http://", "http://x:notaport", "http://u:p@x", "http://x/?q"]
)
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting):
        Client(url)


def test_path_of_the_address_comes_first(daemon: Daemon) -> None:
    daemon.reply(query_id=1, output=0, default=False)
    with Client(daemon.url + "/models/") as one:
        one.predict("a", 1)
    assert daemon.seen[0][0] == "/models/a/predict"
