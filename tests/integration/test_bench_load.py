"""The load generator against servers that answer, stall, reset and refuse."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from clipperfs.bench import LoadPlan, Reply, run_load, summarise
from clipperfs.bench.load import AGAIN_S, _Load
from clipperfs.bench.plan import FIRST_CONNECTIONS
from clipperfs.cli.root import clipperfs
from clipperfs.errors import DaemonNotRunning
from clipperfs.registry import Registry
from tests.integration.frontend_rig import Rig


def reply(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


@contextmanager
def serving(answer: Callable[[int], bytes | float | None]) -> Iterator[int]:
    """Serve on a port: ``answer`` gives the raw reply to the nth request, a pause before it, or None to reset."""
    ready = threading.Event()
    port: list[int] = []
    stop: list[Callable[[], object]] = []

    async def live() -> None:
        count = 0

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            try:
                while head := await reader.readuntil(b"\r\n\r\n"):
                    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    await reader.readexactly(size)
                    count += 1
                    found = answer(count)
                    if isinstance(found, float):
                        await asyncio.sleep(found)
                        found = reply(b'{"default":false}')
                    if found is None:
                        writer.transport.abort()
                        return
                    writer.write(found)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(client, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(over.set))
        ready.set()
        await over.wait()
        server.close()
        await asyncio.sleep(0.05)  # for the last connections to close

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    ready.wait(5)
    try:
        yield port[0]
    finally:
        stop[0]()
        thread.join(5)


def plan(port: int, **changes: object) -> LoadPlan:
    settings: dict[str, object] = {
        "host": "127.0.0.1", "port": port, "path": "/a/predict", "bodies": [b"{}"], "rate": 200.0, "seconds": 0.5,
        "warm_up_s": 0.0, "connections": 4, "timeout_s": 5.0,
    }  # fmt: skip
    return LoadPlan(**{**settings, **changes})  # type: ignore[arg-type]


def test_every_query_is_sent_and_answered() -> None:
    with serving(lambda count: reply(b'{"default":false}')) as port:
        sample = run_load(plan(port))
    assert (sample.sent, len(sample.latency_s), sample.unfinished, sample.failures) == (100, 100, 0, {})


def test_whoever_wants_to_sees_every_reply_with_its_version_and_when_it_was_due() -> None:
    versioned = b"HTTP/1.1 200 OK\r\nclipperfs-version: 7\r\nContent-Length: 2\r\n\r\n{}"
    seen: list[Reply] = []
    began_s = time.perf_counter()
    with serving(lambda count: versioned if count <= 50 else reply(b"[]", "503 Busy")) as port:
        sample = run_load(plan(port, connections=1), on_reply=seen.append)
    assert len(seen) == 100 == sample.sent
    assert [(one.status, one.version, one.body) for one in seen[:50]] == [(200, "7", b"{}")] * 50
    assert [(one.status, one.version, one.body) for one in seen[50:]] == [(503, "", b"[]")] * 50
    assert began_s < seen[0].due_s < seen[-1].due_s < time.perf_counter()


def test_stall_of_the_server_counts_for_every_query_that_was_due_in_it() -> None:
    with serving(lambda count: 0.4 if count == 20 else reply(b"{}")) as port:
        sample = run_load(plan(port, connections=1, seconds=1.0))
    slow = sum(1 for latency in sample.latency_s if latency > 0.1)
    assert 50 < slow < 120, "a closed loop would have seen one"


def test_query_that_finds_no_connection_free_has_another_opened() -> None:
    with serving(lambda count: 1.5) as port:
        sample = run_load(plan(port, rate=300.0, connections=None))
    assert sample.connections == 150, "so many queries were out when the first came back"
    assert (len(sample.latency_s), sample.waited) == (150, 0)
    assert max(sample.latency_s) < 3.0, "none waited for another's answer"


def test_queries_that_had_to_wait_for_a_connection_are_counted() -> None:
    with serving(lambda count: 0.1) as port:
        sample = run_load(plan(port, rate=100.0, connections=5))
        warming = run_load(plan(port, rate=100.0, seconds=0.01, warm_up_s=0.3, connections=5))
    assert sample.connections == 5
    assert 35 <= sample.waited <= 45, "of 50 all but the first five, or a few that came just in time"
    assert warming.waited <= 1, "the warm-up's do not count"


@pytest.mark.parametrize("again_s", [AGAIN_S, 0.0])
def test_connection_that_cannot_be_opened_leaves_the_query_to_the_others(
    monkeypatch: pytest.MonkeyPatch, again_s: float
) -> None:
    opened = 0
    real = _Load._connect

    async def connect(load: _Load) -> None:
        nonlocal opened
        opened += 1
        if opened > FIRST_CONNECTIONS:
            raise OSError(errno.EMFILE, "Too many open files")
        await real(load)

    monkeypatch.setattr(_Load, "_connect", connect)
    monkeypatch.setattr("clipperfs.bench.load.AGAIN_S", again_s)
    with serving(lambda count: 0.3) as port:
        sample = run_load(plan(port, rate=300.0, connections=None))
    assert (len(sample.latency_s), sample.connections) == (150, FIRST_CONNECTIONS)
    if again_s:
        assert FIRST_CONNECTIONS < opened < FIRST_CONNECTIONS + 15, "tried again, but not for each query"
        assert sample.waited >= 150 - 2 * FIRST_CONNECTIONS
    else:
        assert sample.waited == opened - FIRST_CONNECTIONS > 0, "each was tried, and each that failed counts"


def test_reset_is_a_failure_of_one_query_and_the_connection_is_replaced() -> None:
    with serving(lambda count: None if count == 10 else reply(b"{}")) as port:
        sample = run_load(plan(port, connections=1))
    assert sum(sample.failures.values()) == 1
    assert len(sample.latency_s) == 99
    [loss] = sample.losses
    assert loss.had_query
    assert loss.last_answer == b"{}"
    assert 0 < loss.at_s < 0.5


def test_refusals_and_default_outputs_are_told_apart() -> None:
    default = b'{"default":true,"default_explanation":"too late"}'
    with serving(lambda count: reply(default) if count % 2 else reply(b"{}", "503 Busy")) as port:
        sample = run_load(plan(port))
    assert sample.defaults == {"too late": 50}
    assert sample.failures == {"status 503": 50}
    assert sample.default_number == b"\1" * 50


def test_server_that_never_answers_ends_the_run_at_its_time() -> None:
    with serving(lambda count: 60.0) as port:
        sample = run_load(plan(port, seconds=0.2, timeout_s=0.3))
    assert sample.unfinished == 40
    assert summarise(plan(port), sample, 0.1).within_slo == 0


def test_nothing_listening_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DaemonNotRunning, match="nothing answers"):
            run_load(plan(taken.getsockname()[1]))


def test_command_measures_a_frontend() -> None:
    with Rig() as rig:
        rig.serve(rig.start_peer())
        arguments = ["bench", "app", "[1, 2]", "--rate", "100", "--duration", "500ms", "--warm-up", "100ms"]
        arguments += ["--url", f"http://127.0.0.1:{rig.port}"]
        result = CliRunner().invoke(clipperfs, [*arguments, "--json"])
        shown = CliRunner().invoke(clipperfs, arguments)
        missing = CliRunner().invoke(clipperfs, ["bench", "none", *arguments[2:]])
    report = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert (report["answered"], report["failures"], report["defaults"]) == (50, {}, {})
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["max"]
    assert "p99.9" in shown.output
    assert "had to wait" not in shown.output
    assert missing.exit_code == 1
    assert "status 404" in missing.output


def test_command_sends_raw_inputs_of_the_type_that_the_registry_knows(tmp_path: Path) -> None:
    registry = Registry.init(tmp_path.as_uri())
    registry.app_register("app", input_type="doubles", default_output="-1", slo_us=500_000)
    with Rig() as rig:
        rig.serve(rig.start_peer(), input_size=2)
        options = ["--rate", "100", "--duration", "300ms", "--warm-up", "0s", "--json"]
        options += ["--url", f"http://127.0.0.1:{rig.port}"]
        known = [*options, "--registry", registry.url]

        def run(*arguments: str) -> tuple[int, int]:
            result = CliRunner().invoke(clipperfs, ["bench", "app", *arguments])
            return result.exit_code, json.loads(result.stdout)["answered"] if result.stdout else 0

        (tmp_path / "input").write_bytes(struct.pack("<2d", float("nan"), 2))
        assert run(f"@{tmp_path / 'input'}", "--raw", *known) == (0, 30), "which only raw numbers can be"
        assert run("[NaN, 2]", *known) == (1, 0)
        assert run("[NaN, 2]", "--raw", *known) == (2, 0)
        assert run("[1, 2]", "--raw", *known) == (0, 30)
        assert run("--raw", "--size", "2", *known) == (0, 30)
        assert run("[1, 2]", "--raw", *options) == (2, 0), "of which type, nobody knows"
        assert run('"text"', "--raw", *known) == (2, 0)
        assert rig.metrics()["apps"]["app"]["bad_requests"] == 30


def test_command_tells_of_queries_that_waited_for_a_connection() -> None:
    with serving(lambda count: 0.1) as port:
        arguments = ["bench", "app", "[1]", "--rate", "50", "--duration", "500ms", "--warm-up", "0s"]
        arguments += ["--url", f"http://127.0.0.1:{port}"]
        shown = CliRunner().invoke(clipperfs, [*arguments, "--connections", "1"])
        free = CliRunner().invoke(clipperfs, arguments)
    assert "queries had to wait for a connection (1 open)" in shown.output
    assert "had to wait" not in free.output
