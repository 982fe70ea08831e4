"""A frontend process among replicas that die, lie and hang, clients that misbehave, and a controller that goes."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clipperfs.serverd.routing import AppRoute, ModelRoute, VersionRoute

from tests.integration.frontend_rig import Rig, ask, predict, wait_for

FAILED = "Model m failed on this query"
CRASHED = "Model m has no live replica: version 1 crashed and is being restarted"


@pytest.fixture(params=[(), ("lane",)], ids=["zeromq", "lane"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig() as rig:
        rig.ways = request.param
        yield rig


class Load:
    """Closed-loop clients on keep-alive connections that keep every reply."""

    def __init__(self, rig: Rig, clients: int = 8, values: int = 1000) -> None:
        self.rig = rig
        self.values = values
        self.replies: list[tuple[float, str | None, dict[str, Any]]] = []
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        assert not self.errors, self.errors[0]

    def wait_more(self, count: int = 100) -> None:
        """Wait for further replies."""
        wanted = len(self.replies) + count
        wait_for(lambda: len(self.replies) >= wanted or self.errors)

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.rig.port, timeout=10)
        value = number
        try:
            while not self._stop.is_set():
                value = (value + 8) % self.values
                connection.request("POST", "/app/predict", json.dumps({"input": [value, number]}))
                answer = connection.getresponse()
                assert answer.status == 200
                self.replies.append((float(value), answer.headers["Clipperfs-Version"], json.loads(answer.read())))
        except BaseException as error:
            self.errors.append(error)
        finally:
            connection.close()


@pytest.mark.parametrize("behaviour", ["garbage", "twice"])
def test_frames_that_mean_nothing_are_dropped_and_counted(rig: Rig, behaviour: str) -> None:
    rig.serve(rig.start_peer(behaviour))
    for value in range(20):
        assert predict(rig, {"input": [value]}).json["output"] == [float(value)]
    wait_for(lambda: rig.metrics()["dropped_messages"] >= 20)
    version = rig.metrics()["versions"][0]
    assert (version["batches"], version["late"], version["failed_batches"]) == (20, 0, 0)


def test_replica_cannot_answer_for_another(rig: Rig) -> None:
    honest, guessing = rig.start_peer("slow:1000"), rig.start_peer("guess")
    rig.serve(honest, slo_ms=5000)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(predict(rig, {"input": [7]})))
    thread.start()
    wait_for(lambda: rig.metrics()["queues"][0]["in_flight"] == 1)
    rig.serve(honest, guessing, slo_ms=5000)
    assert predict(rig, {"input": [8]}).json["output"] == [8.0]
    thread.join(5)
    assert answers[0].json["output"] == [7.0]
    assert rig.metrics()["dropped_messages"] == 1


@pytest.mark.parametrize("behaviour", ["short", "lying", "empty", "fault"])
def test_batch_that_comes_back_wrong_is_a_failure_of_its_queries_only(rig: Rig, behaviour: str) -> None:
    rig.serve(rig.start_peer(behaviour))
    for _ in range(3):
        reply = predict(rig, {"input": [1]}).json
        assert (reply["output"], reply["default"], reply["default_explanation"]) == (-1, True, FAILED)
    assert rig.metrics()["versions"][0]["failed_batches"] >= 3


def test_query_that_makes_the_model_fail_fails_alone(rig: Rig) -> None:
    rig.serve(rig.start_peer("fault-on:13", "slow:5"))
    for _ in range(4):
        predict(rig, {"input_batch": [[float(n)] for n in range(14, 80)]})
    elements = predict(rig, {"input_batch": [[float(n)] for n in range(64)]}).json["batch_predictions"]
    failed = [number for number, element in enumerate(elements) if element["default"]]
    assert failed == [13]
    assert elements[13]["default_explanation"] == FAILED
    assert all(element["output"] == [float(number)] for number, element in enumerate(elements) if number != 13)


def test_model_that_fails_always_is_not_asked_over_and_over(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rig.serve(rig.start_peer("fault", f"log:{log}"))
    for _ in range(20):
        predict(rig, {"input_batch": [[float(n)] for n in range(32)]})
    asked = sum(json.loads(line)[0] for line in log.read_text().splitlines())
    assert asked <= 20 * 32 * 2


def test_batch_of_a_dead_replica_is_answered_by_another(rig: Rig) -> None:
    dies, lives = rig.start_peer("silent"), rig.start_peer()
    rig.serve(dies, slo_ms=3000)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(predict(rig, {"input": [7]})))
    thread.start()
    wait_for(lambda: rig.metrics()["queues"][0]["in_flight"] == 1)
    rig.kill_peer(0)
    rig.serve(lives, slo_ms=3000)
    thread.join(5)
    assert answers[0].json["output"] == [7.0]
    assert rig.metrics()["versions"][0]["retries"] == 1


def test_what_replicas_have_is_counted_in_queries(rig: Rig) -> None:
    rig.serve(rig.start_peer("silent"), slo_ms=1500, fixed_batch=4)
    thread = threading.Thread(target=lambda: predict(rig, {"input_batch": [[float(n)] for n in range(7)]}))
    thread.start()
    wait_for(lambda: rig.metrics()["queues"][0]["in_flight"])
    queues = rig.metrics()["queues"][0]
    thread.join(5)
    assert queues["in_flight"] in (4, 7), "one batch or two, the second of which is not full"
    assert queues["in_flight"] + queues["queued"] == 7


def test_batch_is_tried_once_more_and_not_again(rig: Rig) -> None:
    peers = [rig.start_peer("silent") for _ in range(3)]
    rig.serve(peers[0], slo_ms=5000)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(predict(rig, {"input": [7]})))
    thread.start()
    for peer in peers[1:]:
        wait_for(lambda: rig.metrics()["queues"][0]["in_flight"] == 1)
        rig.serve(peer, slo_ms=5000)
    thread.join(5)
    assert answers[0].json["default_explanation"] == FAILED


def test_batch_that_must_not_run_twice_gets_the_default_output(rig: Rig) -> None:
    dies, lives = rig.start_peer("silent"), rig.start_peer()
    rig.serve(dies, slo_ms=3000, idempotent=False)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(predict(rig, {"input": [7]})))
    thread.start()
    wait_for(lambda: rig.metrics()["queues"][0]["in_flight"] == 1)
    rig.serve(lives, slo_ms=3000, idempotent=False)
    thread.join(5)
    assert answers[0].json["default"] is True


def test_model_whose_last_replica_died_is_explained_at_once(rig: Rig) -> None:
    rig.serve(rig.start_peer("silent"), slo_ms=5000)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(predict(rig, {"input_batch": [[1], [2], [3], [4]]})))
    thread.start()
    wait_for(lambda: rig.metrics()["queues"][0]["live"] == 4)
    started = time.monotonic()
    rig.serve(slo_ms=5000)
    thread.join(5)
    assert time.monotonic() - started < 1
    assert [e["default_explanation"] for e in answers[0].json["batch_predictions"]] == [CRASHED] * 4
    assert predict(rig, {"input": [1]}).json["default_explanation"] == CRASHED
    rig.serve(unavailable="Model m is loading version 1")
    assert predict(rig, {"input": [1]}).json["default_explanation"] == "Model m is loading version 1"


def test_kill_of_a_replica_under_load_costs_no_request(rig: Rig) -> None:
    peers = [rig.start_peer() for _ in range(2)]
    rig.serve(*peers, slo_ms=5000)
    with Load(rig) as load:
        load.wait_more(200)
        rig.kill_peer(0)
        time.sleep(0.05)
        rig.serve(peers[1], slo_ms=5000)
        load.wait_more(200)
    assert all(reply["default"] is False for _, _, reply in load.replies)
    assert all(reply["output"][0] == value for value, _, reply in load.replies)


def test_replica_that_cannot_be_reached_is_reported(rig: Rig) -> None:
    dies, lives = rig.start_peer(), rig.start_peer()
    rig.serve(dies)
    predict(rig, {"input": [1]})
    rig.kill_peer(0)
    time.sleep(0.2)
    rig.serve(dies, lives)
    for value in range(6):
        assert predict(rig, {"input": [value]}).json["output"] == [float(value)]
    told = [message for message in rig.messages if message["t"] == "lost"] or [rig.expect("lost")]
    assert [message["replica"] for message in told] == [dies]


def test_batch_that_is_out_for_too_long_is_reported_once(rig: Rig) -> None:
    peer = rig.start_peer("silent")
    rig.serve(peer, slo_ms=50, predict_timeout_s=0.3)
    predict(rig, {"input": [1]})
    hang = rig.expect("hang")
    assert hang["replica"] == peer
    assert 0.3 < hang["batch_s"] < 2
    time.sleep(0.6)
    rig.metrics()
    assert sum(message["t"] == "hang" for message in rig.messages) == 1


def two_versions(rig: Rig, active: str, **peers: str) -> None:
    """Route to one of several loads; versions that are not named leave the table."""
    routes = {name: VersionRoute(f"key-{name}", name * 4, "doubles", (peer,)) for name, peer in peers.items()}
    model = ModelRoute(active=active, versions=routes, cache=False)
    rig.route({"app": AppRoute("doubles", 5_000_000, "-1", "m")}, {"m": model})


def test_switch_under_load_mixes_no_batch_and_loses_no_request(rig: Rig, tmp_path: Path) -> None:
    peers = {name: rig.start_peer(f"name:{name}", "slow:1", f"log:{tmp_path / name}") for name in "abcd"}
    two_versions(rig, "a", a=peers["a"])
    with Load(rig) as load:
        for old, new in ("ab", "bc", "cd"):
            load.wait_more(150)
            two_versions(rig, new, **{old: peers[old], new: peers[new]})
            two_versions(rig, new, **{new: peers[new]})
            rig.wait_released(f"key-{old}")
            before = (tmp_path / old).read_text()
            load.wait_more(50)
            assert (tmp_path / old).read_text() == before, "a released version was asked again"
    assert all(reply["default"] is False for _, _, reply in load.replies)
    assert all(reply["output"] == version for _, version, reply in load.replies)
    assert {version for _, version, _ in load.replies} == set("abcd")
    assert rig.released == ["key-a", "key-b", "key-c"]


def test_batch_of_inputs_leases_one_version_across_a_switch(rig: Rig) -> None:
    peers = {name: rig.start_peer(f"name:{name}", "slow:20") for name in "ab"}
    two_versions(rig, "a", **peers)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(predict(rig, {"input_batch": [[1.0]] * 40})))
    thread.start()
    wait_for(lambda: any(queue["live"] for queue in rig.metrics()["queues"]))
    two_versions(rig, "b", b=peers["b"])
    assert predict(rig, {"input": [1]}).json["output"] == "b"
    thread.join(10)
    assert {element["output"] for element in answers[0].json["batch_predictions"]} == {"a"}
    assert answers[0].headers["Clipperfs-Version"] == "a"
    rig.wait_released("key-a")


def test_idle_version_is_released_with_the_table_that_drops_it(rig: Rig) -> None:
    peer = rig.start_peer()
    rig.serve(peer, key="old")
    predict(rig, {"input": [1]})
    rig.serve(peer, key="new")
    assert rig.released == ["old"]
    assert predict(rig, {"input": [2]}).json["output"] == [2.0]
    rig.route({}, {})
    assert rig.released == ["old", "new"]


def test_version_that_never_answers_is_released_when_its_queries_have_expired(rig: Rig) -> None:
    silent, other = rig.start_peer("silent"), rig.start_peer()
    rig.serve(silent, slo_ms=800, key="old")
    thread = threading.Thread(target=lambda: predict(rig, {"input": [1]}))
    thread.start()
    wait_for(lambda: rig.metrics()["queues"][0]["live"] == 1)
    rig.serve(other, key="new")
    assert "old" not in rig.released
    rig.wait_released("old", 2.0)
    thread.join(5)


def test_client_that_leaves_takes_its_waiting_queries_along(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rig.serve(rig.start_peer("slow:150", f"log:{log}"), slo_ms=5000)
    clients = []
    for value in range(12):
        client = socket.create_connection(("127.0.0.1", rig.port))
        body = b'{"input":[%d]}' % value
        client.sendall(b"POST /app/predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        clients.append(client)
    wait_for(lambda: rig.metrics()["queues"][0]["live"] == 12)
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    wait_for(lambda: rig.metrics()["queues"][0]["live"] == 0)
    assert len(log.read_text().splitlines()) < 8
    assert rig.metrics()["http"]["connections"] == 0
    assert predict(rig, {"input": [5]}).json["output"] == [5.0]


def test_drain_answers_what_is_in_flight_then_exits(rig: Rig) -> None:
    rig.serve(rig.start_peer("slow:300"), slo_ms=5000)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(predict(rig, {"input": [3]})))
    thread.start()
    wait_for(lambda: rig.metrics()["queues"][0]["live"] == 1)
    idle = socket.create_connection(("127.0.0.1", rig.port))
    wait_for(lambda: rig.metrics()["http"]["connections"] == 2)
    rig.send("drain")
    assert idle.recv(10) == b""
    idle.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", rig.port), timeout=1)
    thread.join(5)
    assert answers[0].json["output"] == [3.0]
    assert answers[0].headers["Connection"] == "close"
    assert rig.process.wait(5) == 0


def test_frontend_ends_at_once_when_the_controller_is_gone(rig: Rig) -> None:
    rig.channel.close()
    assert rig.process.wait(2) != 0


def test_frontend_leaves_signals_to_the_controller(rig: Rig) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        rig.process.send_signal(number)
    time.sleep(0.1)
    assert ask(rig, "GET", "/livez").status == 200


def test_frontend_dies_with_a_controller_that_was_killed() -> None:
    code = (
        "import socket,subprocess,sys,os,time;"
        "a,b=socket.socketpair();"
        "keep=os.dup(a.fileno());os.set_inheritable(keep,True);"  # the channel stays open: only the signal can tell
        "p=subprocess.Popen([sys.executable,'-P','-m','clipperfs.serverd.frontend','--control-fd',str(b.fileno()),"
        "'--parent-pid',str(os.getpid()),'--index','0','--runtime',sys.argv[1],'--port','0'],"
        "pass_fds=[b.fileno(),keep]);"
        "a.recv(1);print(p.pid,flush=True);time.sleep(60)"
    )
    with tempfile.TemporaryDirectory(prefix="cfs-") as folder:
        parent = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        frontend = int(parent.stdout.readline())
        parent.kill()
        parent.wait(5)
        parent.stdout.close()
        wait_for(lambda: not is_running(frontend))


def is_running(pid: int) -> bool:
    """Return whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_frontend_out_of_descriptors_recovers(rig: Rig) -> None:
    rig.serve(rig.start_peer(), slo_ms=5000)
    kept = socket.create_connection(("127.0.0.1", rig.port))
    request = b'POST /app/predict HTTP/1.1\r\nContent-Length: 13\r\n\r\n{"input":[1]}'
    kept.sendall(request)
    assert b'"default":false' in kept.recv(1000)
    used = len(os.listdir(f"/proc/{rig.process.pid}/fd"))
    resource.prlimit(rig.process.pid, resource.RLIMIT_NOFILE, (used + 20, used + 20))
    crowd = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(60)]
    time.sleep(0.2)
    started = cpu_s(rig.process.pid)
    kept.sendall(request)
    assert b'"default":false' in kept.recv(1000)
    time.sleep(0.5)
    assert cpu_s(rig.process.pid) - started < 0.3, "it spins"
    for client in crowd:
        client.close()
    kept.close()
    wait_for(lambda: rig.metrics()["http"]["connections"] == 0)
    assert predict(rig, {"input": [2]}).status == 200


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_clients_over_the_limit_are_told_and_others_served() -> None:
    with Rig("--max-connections", "4") as rig:
        rig.serve(rig.start_peer())
        crowd = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(4)]
        wait_for(lambda: rig.metrics()["http"]["connections"] == 4)
        assert ask(rig, "GET", "/livez").status == 503
        crowd.pop().close()
        wait_for(lambda: rig.metrics()["http"]["connections"] == 3)
        assert predict(rig, {"input": [1]}).status == 200
        for client in crowd:
            client.close()


def test_huge_body_is_refused_by_counting_without_being_kept() -> None:
    with Rig("--max-body-bytes", "100000") as rig:
        rig.serve(rig.start_peer())
        assert ask(rig, "POST", "/app/predict", b"[" * 100_001).status == 413
        client = socket.create_connection(("127.0.0.1", rig.port), timeout=5)
        client.sendall(b"POST /app/predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        received = b""
        try:
            for _ in range(2000):
                client.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        except OSError:
            pass
        received = client.recv(2000)
        assert received.startswith(b"HTTP/1.1 413 ")
        client.close()
        assert predict(rig, {"input": [1]}).status == 200


def test_requests_of_one_connection_are_answered_in_order(rig: Rig) -> None:
    rig.serve(rig.start_peer("slow:2"))
    client = socket.create_connection(("127.0.0.1", rig.port), timeout=5)
    bodies = [b'{"input":[%d]}' % number for number in range(100)]
    client.sendall(
        b"".join(b"POST /app/predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies)
    )
    received = b""
    while received.count(b'"default"') < 100:
        received += client.recv(1 << 16)
    client.close()
    outputs = [json.loads(body)["output"] for body in re.findall(rb'\{"query_id.*?\}', received)]
    assert outputs == [[float(number)] for number in range(100)]


def test_restarted_frontend_is_found_by_the_replicas_that_are_there(tmp_path: Path) -> None:
    first = Rig()
    try:
        peer = first.start_peer()
        first.serve(peer)
        assert predict(first, {"input": [1]}).status == 200
        first.process.kill()
        first.process.wait(5)
        with Rig(runtime=first.runtime) as second:
            second.serve(peer, slo_ms=3000)
            assert predict(second, {"input": [2]}).json["output"] == [2.0]
    finally:
        first.__exit__()


def test_two_frontends_share_a_port_and_the_replicas() -> None:
    with Rig() as first, Rig(runtime=first.runtime, index=1, port=first.port) as second:
        assert second.port == first.port
        identity = first.start_peer()
        first.serve(identity)
        second.serve(identity, slo_ms=100)
        seen = {predict(first, {"input": [1]}).json["query_id"] >> 46 for _ in range(60)}
        assert seen == {0, 1}


def test_late_batch_is_asked_of_a_second_replica_too(rig: Rig) -> None:
    fast = rig.start_peer()
    rig.serve(fast, slo_ms=5000)
    for _ in range(40):
        predict(rig, {"input": [1]})
    stalls, second = rig.start_peer("slow:1500"), rig.start_peer()
    rig.serve(stalls, second, slo_ms=5000)
    started = time.monotonic()
    assert predict(rig, {"input": [7]}).json["output"] == [7.0]
    assert time.monotonic() - started < 1.0
    version = rig.metrics()["versions"][0]
    assert version["hedges"] == 1
    wait_for(lambda: rig.metrics()["queues"][0]["in_flight"] == 0)
    version = rig.metrics()["versions"][0]
    assert (version["late"], version["retries"], rig.metrics()["queues"][0]["live"]) == (0, 0, 0)


def test_late_batch_is_asked_of_a_replica_that_is_never_idle(rig: Rig) -> None:
    fast = rig.start_peer("slow:10")
    rig.serve(fast, slo_ms=1000)
    for _ in range(40):
        predict(rig, {"input": [1]})
    rig.serve(rig.start_peer("slow:3000"), rig.start_peer("slow:10"), slo_ms=1000)
    until_s = time.monotonic() + 1.5
    replies: list[Any] = []

    def keep_asking() -> None:
        while time.monotonic() < until_s:
            replies.append(predict(rig, {"input": [7]}).json)

    clients = [threading.Thread(target=keep_asking) for _ in range(12)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert [reply for reply in replies if reply["default"]] == []
    assert rig.metrics()["versions"][0]["hedges"] >= 1


def test_late_batch_that_must_not_run_twice_is_waited_for(rig: Rig) -> None:
    fast = rig.start_peer()
    rig.serve(fast, slo_ms=5000, idempotent=False)
    for _ in range(40):
        predict(rig, {"input": [1]})
    rig.serve(rig.start_peer("slow:400"), rig.start_peer(), slo_ms=5000, idempotent=False)
    assert predict(rig, {"input": [7]}).json["output"] == [7.0]
    assert rig.metrics()["versions"][0]["hedges"] == 0


def test_fault_of_one_of_two_replicas_leaves_the_query_to_the_other(rig: Rig) -> None:
    fast = rig.start_peer()
    rig.serve(fast, slo_ms=5000)
    for _ in range(40):
        predict(rig, {"input": [1]})
    stalls, second = rig.start_peer("slow:700"), rig.start_peer("fault")
    rig.serve(stalls, second, slo_ms=5000)
    assert predict(rig, {"input": [7]}).json["output"] == [7.0]
    assert rig.metrics()["versions"][0]["hedges"] == 1
