"""A frontend process asked over HTTP: Clipper's query interface, word for word."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from clipperfs.serverd import control
from clipperfs.serverd.routing import AppRoute, ModelRoute, VersionRoute

from tests.integration.frontend_rig import Rig, ask, predict, wait_for


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def test_query_is_answered_by_a_real_replica(rig: Rig) -> None:
    rig.serve(rig.start_replica(output={"label": 3}), version="1.0")
    reply = predict(rig, {"input": [1, 2.5]})
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Clipperfs-Version"] == "1.0"
    assert reply.json == {"query_id": reply.json["query_id"], "output": {"label": 3}, "default": False}
    assert predict(rig, {"input": [1]}, path="/app/predict/").json["query_id"] == reply.json["query_id"] + 1
    assert predict(rig, {"input": [1]}, path="/app/predict?x=1").status == 200


@pytest.mark.parametrize(
    ("input_type", "value"),
    [("ints", [1, 2]), ("floats", [1, 2.5]), ("bytes", base64.b64encode(b"\0\xff").decode()), ("strings", "grün")],
)
def test_every_input_type_reaches_the_replica(rig: Rig, input_type: str, value: Any) -> None:
    rig.serve(rig.start_replica(input_type=input_type, output="ok"), input_type=input_type)
    assert predict(rig, {"input": value}).json["output"] == "ok"


def test_inputs_are_answered_each_by_its_own_output(rig: Rig) -> None:
    rig.serve(rig.start_peer())
    reply = predict(rig, {"input_batch": [[float(n)] * (1 + n % 3) for n in range(300)]})
    outputs = [element["output"] for element in reply.json["batch_predictions"]]
    assert outputs == [[float(n)] * (1 + n % 3) for n in range(300)]
    assert len({element["query_id"] for element in reply.json["batch_predictions"]}) == 300
    assert all(element["default"] is False for element in reply.json["batch_predictions"])
    assert reply.headers["Clipperfs-Version"] == "1"
    assert list(reply.json) == ["batch_predictions"]


def test_input_wins_over_input_batch(rig: Rig) -> None:
    rig.serve(rig.start_peer())
    assert predict(rig, {"input_batch": [[1], [2]], "input": [3]}).json["output"] == [3.0]


def test_bad_body_is_a_400_with_error_and_cause(rig: Rig) -> None:
    rig.serve(rig.start_peer(), input_size=2)
    cases: list[tuple[bytes, str, str]] = [
        (b"{", "Json error", "truncated"),
        (b'{"input":[1,NaN]}', "Json error", "malformed"),
        (b'{"x":' + b"[" * 200_000, "Json error", "nested too deeply"),
        (b'{"input":["a",1]}', "Query processing error", "element 0 is text"),
        (b'{"input":[]}', "Query processing error", "must not be empty"),
        (b'{"input":[1]}', "Query processing error", "expects 2 elements in an input, not 1"),
        (b'{"input_batch":[[1,2],[1]]}', "Query processing error", "input_batch[1]"),
        (b'{"input_batch":[]}', "Query processing error", "must not be empty"),
        (b"{}", "Query processing error", "input"),
        (b'{"input_batch":[%b]}' % b",".join([b"[1,2]"] * 16_385), "Query processing error", "16384"),
    ]
    for body, error, cause in cases:
        reply = ask(rig, "POST", "/app/predict", body)
        assert reply.status == 400
        assert reply.json["error"] == error
        assert cause in reply.json["cause"]
        assert set(reply.json) == {"error", "cause"}
    assert predict(rig, {"input": [1, 2]}).status == 200
    assert rig.metrics()["apps"]["app"]["bad_requests"] == len(cases)


def test_other_paths_and_methods_are_told_what_there_is(rig: Rig) -> None:
    rig.serve(rig.start_peer())
    assert ask(rig, "GET", "/").status == 404
    assert "no application nope" in ask(rig, "POST", "/nope/predict", b"{}").json["cause"]
    assert ask(rig, "POST", "/app/predict/more", b"{}").status == 404
    wrong = ask(rig, "GET", "/app/predict")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    assert ask(rig, "PUT", "/app/predict", b"{}").status == 405
    wrong = ask(rig, "POST", "/livez", b"")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD")
    assert ask(rig, "GET", "/%2e%2e/predict").status == 404
    assert ask(rig, "POST", "/reload", b"{}").status == 404


def test_health_follows_the_table_and_metrics_come_from_the_controller(rig: Rig) -> None:
    assert ask(rig, "GET", "/livez").status == 200
    assert ask(rig, "GET", "/readyz").status == 503
    rig.route({}, {}, accepting=False)
    assert ask(rig, "GET", "/readyz").status == 503
    rig.route({}, {})
    assert ask(rig, "GET", "/readyz").json == {"status": "ready", "epoch": 2}
    head = ask(rig, "HEAD", "/readyz")
    assert (head.status, head.body) == (200, b"")

    connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=5)
    connection.request("GET", "/metrics")
    asked = rig.expect("ask")
    assert asked["what"] == "metrics"
    rig.send("text", id=asked["id"], status=200, ctype="text/plain; version=0.0.4", body=b"up 1\n")
    rig.send("text", id=999, status=200, ctype="text/plain", body=b"for nobody")
    answer = connection.getresponse()
    assert (answer.read(), answer.headers["Content-Type"]) == (b"up 1\n", "text/plain; version=0.0.4")
    connection.close()


def test_controller_is_asked_for_the_metrics_once_for_all_who_wait_and_not_while_they_are_fresh(rig: Rig) -> None:
    rig.route({}, {})
    clients = [http.client.HTTPConnection("127.0.0.1", rig.port, timeout=5) for _ in range(4)]
    for client in clients[:3]:
        client.request("GET", "/metrics")
    asked = rig.expect(control.ASK)
    wait_for(lambda: rig.metrics()["http"]["requests"] == 3)
    rig.send(control.TEXT, id=asked["id"], status=200, ctype="text/plain", body=b"first", keep_s=0.3)
    assert [client.getresponse().read() for client in clients[:3]] == [b"first"] * 3
    clients[3].request("GET", "/metrics")
    assert clients[3].getresponse().read() == b"first"
    assert [message["t"] for message in rig.messages].count(control.ASK) == 1
    time.sleep(0.4)
    clients[0].request("GET", "/metrics")
    rig.send(control.TEXT, id=asked["id"], status=200, ctype="text/plain", body=b"late", keep_s=0.3)
    rig.send(control.TEXT, id=rig.expect(control.ASK)["id"], status=200, ctype="text/plain", body=b"second", keep_s=0.0)
    assert clients[0].getresponse().read() == b"second"
    for client in clients:
        client.close()


def test_unlinked_application_answers_its_default_output(rig: Rig) -> None:
    rig.route({"app": AppRoute("doubles", 100_000, '{"a": [1]}')}, {})
    reply = predict(rig, {"input": [1]})
    assert reply.status == 200
    assert reply.json == {
        "query_id": reply.json["query_id"],
        "output": {"a": [1]},
        "default": True,
        "default_explanation": "No connected models found for query",
    }
    assert "Clipperfs-Version" not in reply.headers
    elements = predict(rig, {"input_batch": [[1], [2]]}).json["batch_predictions"]
    assert [element["default"] for element in elements] == [True, True]
    assert rig.metrics()["apps"]["app"]["defaults"] == {"no_model": 3}


def test_model_of_another_input_type_is_explained(rig: Rig) -> None:
    peer = rig.start_peer()
    route = VersionRoute("k", "d", "ints", (peer,))
    models = {"m": ModelRoute(active="1", versions={"1": route})}
    rig.route({"app": AppRoute("doubles", 100_000, "x", "m")}, models)
    assert predict(rig, {"input": [1]}).json["default_explanation"] == "Model m expects inputs of type ints"


def test_pinned_version_or_alias_answers_and_an_unknown_one_is_explained(rig: Rig) -> None:
    routes = {
        name: VersionRoute(f"k{name}", f"d{name}", "doubles", (rig.start_peer(f"name:v{name}"),)) for name in ("1", "2")
    }
    model = ModelRoute(active="1", aliases={"next": "2", "old": "0"}, versions=routes)
    rig.route({"app": AppRoute("doubles", 500_000, "none", "m")}, {"m": model})
    replies = {pin: predict(rig, {"input": [1], "version": pin}) for pin in ("1", "2", "next", "0", "old", "")}
    assert {pin: reply.json["output"] for pin, reply in replies.items()} == {
        "1": "v1",
        "2": "v2",
        "next": "v2",
        "0": "none",
        "old": "none",
        "": "none",
    }
    assert replies["next"].headers["Clipperfs-Version"] == "2"
    assert replies["0"].json["default_explanation"] == "Version 0 of model m is not loaded"
    batch = predict(rig, {"input_batch": [[1], [2]], "version": "next"})
    assert [element["output"] for element in batch.json["batch_predictions"]] == ["v2", "v2"]


def test_missed_slo_answers_the_default_output_in_time(rig: Rig) -> None:
    rig.serve(rig.start_peer("silent"), slo_ms=150)
    started = time.monotonic()
    reply = predict(rig, {"input": [1]})
    waited_s = time.monotonic() - started
    assert reply.json["default"] is True
    assert reply.json["default_explanation"] == (
        "Failed to retrieve a prediction response within the specified latency SLO"
    )
    assert 0.1 < waited_s < 0.3
    batch = predict(rig, {"input_batch": [[1], [2], [3]]})
    assert [element["default"] for element in batch.json["batch_predictions"]] == [True] * 3
    assert rig.metrics()["apps"]["app"]["defaults"] == {"slo": 4}


def test_output_that_comes_late_is_there_for_the_next_query(rig: Rig) -> None:
    rig.serve(rig.start_peer("slow:200"), slo_ms=50, cache=True)
    assert predict(rig, {"input": [4]}).json["default"] is True
    wait_for(lambda: rig.metrics()["versions"][0]["late"] == 1)
    assert predict(rig, {"input": [4]}).json["output"] == [4.0]


def test_equal_inputs_of_one_version_are_predicted_once(rig: Rig) -> None:
    peer = rig.start_peer()
    rig.serve(peer, cache=True)
    for value in (1, 1.0, 2, 1):
        assert predict(rig, {"input": [value]}).json["output"] == [float(value)]
    counts = rig.metrics()
    version = counts["versions"][0]
    assert (version["queries"], version["cache_hits"], version["cache_misses"]) == (2, 2, 2)
    assert (counts["cache"]["hits"], counts["cache"]["entries"]) == (2, 2)
    rig.serve(peer, cache=False)
    predict(rig, {"input": [1]})
    assert rig.metrics()["versions"][0]["queries"] == 3


def test_waiting_queries_over_the_bound_are_refused_at_once(rig: Rig) -> None:
    rig.serve(rig.start_peer("silent"), slo_ms=1500)
    crowd = [http.client.HTTPConnection("127.0.0.1", rig.port, timeout=10) for _ in range(2)]
    for connection, count in zip(crowd, (16_384, 10), strict=True):
        connection.request("POST", "/app/predict", json.dumps({"input_batch": [[1.0]] * count}))
        wait_for(lambda: rig.metrics()["queues"][0]["queued"] > 16_000)
    wait_for(lambda: rig.metrics()["queues"][0]["queued"] == 16_384)
    started = time.monotonic()
    reply = predict(rig, {"input": [1.0]})
    assert time.monotonic() - started < 0.2
    assert reply.json["default_explanation"] == "Too many queries are waiting for model m"
    for connection, count in zip(crowd, (16_384, 10), strict=True):
        assert len(json.loads(connection.getresponse().read())["batch_predictions"]) == count
        connection.close()
    wait_for(lambda: rig.metrics()["queues"][0]["queued"] == 0)
    assert predict(rig, {"input": [1.0]}).json["default_explanation"].startswith("Failed to retrieve")


def test_model_that_asks_for_it_gets_larger_batches_for_a_delay(rig: Rig) -> None:
    rig.serve(rig.start_peer(), batch_delay_ms=60.0)
    for _ in range(3):
        predict(rig, {"input_batch": [[1.0]] * 64})
    started = time.monotonic()
    assert predict(rig, {"input": [1.0]}).json["default"] is False
    assert 0.05 < time.monotonic() - started < 0.3


def test_fixed_batches_are_full_or_have_waited(rig: Rig) -> None:
    rig.serve(rig.start_peer(), fixed_batch=4, batch_delay_ms=60.0)
    started = time.monotonic()
    predict(rig, {"input_batch": [[1.0]] * 8})
    assert time.monotonic() - started < 0.05
    predict(rig, {"input_batch": [[1.0]] * 6})
    assert time.monotonic() - started > 0.05
    sizes = rig.metrics()["versions"][0]["batch_sizes"]
    assert sizes[:4] == [0, 1, 3, 0]  # of up to 1, 2, 4 and 8 queries
    assert sum(sizes) == 4


def test_slow_query_behind_one_of_a_shorter_slo_is_told_of() -> None:
    with Rig("--slow-s", "1.0") as rig:
        route = VersionRoute("k1", "d" * 64, "doubles", (rig.start_peer("slow:400"),), fixed_batch=4)
        apps = {"quick": AppRoute("doubles", 3_000_000, "-1", "m"), "calm": AppRoute("doubles", 9_000_000, "-1", "m")}
        rig.route(apps, {"m": ModelRoute(active="1", versions={"1": route}, cache=False)})
        threads = [
            threading.Thread(target=predict, args=(rig, {"input": [1]}, f"/{app}/predict"))
            for app in ("calm", "calm", "calm", "quick")
        ]
        # The first two go at once, each alone; the others wait together until the first is answered.
        for thread, wait_s in zip(threads, (0.02, 0.02, 0.3, 0), strict=True):
            thread.start()
            time.sleep(wait_s)
        facts = rig.expect(control.SLOW)["facts"]
        for thread in threads:
            thread.join(10)
        assert (facts["app"], facts["batch"]) == ("calm", 2)
        assert 1000 < facts["total_ms"] < 1300
        assert not rig.metrics()["apps"]["calm"]["defaults"]
        assert [message["t"] for message in rig.messages].count(control.SLOW) == 1


def test_equal_inputs_at_the_same_time_share_one_prediction(rig: Rig) -> None:
    rig.serve(rig.start_peer("slow:150"), cache=True)
    reply = predict(rig, {"input_batch": [[1.0]] * 5 + [[2.0]]})
    assert [element["output"] for element in reply.json["batch_predictions"]] == [[1.0]] * 5 + [[2.0]]
    version = rig.metrics()["versions"][0]
    assert (version["queries"], version["shared"]) == (2, 4)
    assert rig.metrics()["queues"][0]["live"] == 0


def test_equal_inputs_share_a_failure(rig: Rig) -> None:
    rig.serve(rig.start_peer("slow:100", "fault"), cache=True)
    reply = predict(rig, {"input_batch": [[1.0]] * 3})
    assert [element["default"] for element in reply.json["batch_predictions"]] == [True] * 3
    assert rig.metrics()["versions"][0]["queries"] == 1
    assert rig.metrics()["queues"][0]["live"] == 0


def test_query_with_time_left_outlives_the_equal_one_it_waited_for(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "log"
    route = VersionRoute("k1", "d" * 64, "doubles", (rig.start_peer("slow:300", f"log:{log}"),))
    apps = {"quick": AppRoute("doubles", 450_000, "-1", "m"), "calm": AppRoute("doubles", 5_000_000, "-1", "m")}
    rig.route(apps, {"m": ModelRoute(active="1", versions={"1": route})})
    answers: dict[str, Any] = {}

    def query(app: str, value: float) -> None:
        answers[f"{app}{value:g}"] = predict(rig, {"input": [value]}, f"/{app}/predict").json

    threads = [threading.Thread(target=query, args=one) for one in (("calm", 0.0), ("calm", 9.0), ("quick", 1.0))]
    for thread in threads:
        thread.start()
        time.sleep(0.03)
    threads.append(threading.Thread(target=query, args=("calm", 1.0)))
    threads[-1].start()
    for thread in threads:
        thread.join(10)
    assert answers["quick1"]["default"] is True
    assert answers["calm1"]["output"] == [1.0]
    assert rig.metrics()["queues"][0]["live"] == 0


def _post(rig: Rig, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=20)
    try:
        connection.request("POST", "/app/predict", body, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


RAW = {"Content-Type": "application/octet-stream"}


def test_raw_numbers_are_answered_as_their_json_is(rig: Rig) -> None:
    rig.serve(rig.start_peer())
    body = struct.pack("<6d", *range(6))
    assert _post(rig, body, RAW)[1]["output"] == [0, 1, 2, 3, 4, 5]
    rows = _post(rig, body, {**RAW, "Clipperfs-Shape": "2,3", "Clipperfs-Dtype": "float64"})[1]
    assert [element["output"] for element in rows["batch_predictions"]] == [[0, 1, 2], [3, 4, 5]]
    assert _post(rig, body, {**RAW, "Clipperfs-Version": "1"})[1]["output"] == [0, 1, 2, 3, 4, 5]
    status, reply = _post(rig, body, {**RAW, "Clipperfs-Version": "9"})
    assert (status, reply["default_explanation"]) == (200, "Version 9 of model m is not loaded")
    status, reply = _post(rig, body[:-1], RAW)
    assert (status, reply["error"]) == (400, "Query processing error")
    assert _post(rig, b"", RAW)[0] == 400


def test_raw_requests_of_one_connection_are_each_taken_raw(rig: Rig) -> None:
    rig.serve(rig.start_peer())
    connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=20)
    for count in (1, 2, 3, 30):
        connection.request("POST", "/app/predict", struct.pack(f"<{count}d", *range(count)), RAW)
        assert json.loads(connection.getresponse().read())["output"] == list(range(count))
    connection.request("POST", "/app/predict", b'{"input": [5]}')
    assert json.loads(connection.getresponse().read())["output"] == [5]
    connection.close()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_compressed_bodies_are_taken_and_bombs_refused(rig: Rig, encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zstandard.ZstdCompressor().compress
    rig.serve(rig.start_peer())
    headers = {"Content-Encoding": encoding}
    assert _post(rig, compress(b'{"input": [1, 2]}'), headers)[1]["output"] == [1, 2]
    assert _post(rig, compress(struct.pack("<2d", 1, 2)), {**headers, **RAW})[1]["output"] == [1, 2]
    assert _post(rig, compress(b" " * 40_000_000), headers)[0] == 413
    assert _post(rig, b"nonsense", headers)[0] == 400
    assert _post(rig, b"nonsense", {"Content-Encoding": "br"})[0] == 415
    assert predict(rig, {"input": [3]}).json["output"] == [3]


def test_large_raw_body_goes_through_whole() -> None:
    with Rig("--max-body-bytes", str(64 << 20)) as rig:
        rig.serve(rig.start_replica("noop", "bytes"), input_type="bytes", slo_ms=20_000)
        began = time.monotonic()
        status, reply = _post(rig, os.urandom(48 << 20), {"Content-Type": "image/tiff"})
        assert (status, reply["default"]) == (200, False), reply
        assert time.monotonic() - began < 15
        assert _post(rig, b"x" * ((64 << 20) + 1), RAW)[0] == 413


def test_others_are_answered_while_a_large_body_is_read() -> None:
    with Rig("--max-body-bytes", str(64 << 20)) as rig:
        rig.serve(rig.start_replica("noop", "doubles"), slo_ms=20_000)
        numbers = 3_000_000
        body = b'{"input":[' + b"0.123456," * (numbers - 1) + b"1]}"
        large = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=60)
        large.request("POST", "/app/predict", body)
        took_s = []
        while not select.select([large.sock], [], [], 0)[0]:
            began_s = time.monotonic()
            assert predict(rig, {"input": [1.0]}).json["default"] is False
            took_s.append(time.monotonic() - began_s)
        reply = json.loads(large.getresponse().read())
        large.close()
        assert reply["default"] is False, reply
        # Read in one go, it holds one of them up for four fifths of the time.
        assert max(took_s) < sum(took_s) / 2, "they were held up"


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_large_body_that_is_no_list_of_numbers_is_refused_with_its_place(rig: Rig, headers: dict[str, str]) -> None:
    rig.serve(rig.start_peer())
    body = json.dumps({"input": [0.5] * 100_000 + ["x"]}).encode()
    status, reply = _post(rig, gzip.compress(body) if headers else body, headers)
    assert (status, reply["error"]) == (400, "Query processing error")
    assert "is text, not a number, in the piece of the body that begins at byte " in reply["cause"]


def test_large_bodies_of_every_shape_mean_what_small_ones_do(rig: Rig) -> None:
    rig.serve(rig.start_peer())
    long = [number / 4 for number in range(60_000)]
    assert predict(rig, {"input": long}).json["output"] == long
    assert predict(rig, {"input": long, "version": "9"}).json["default"] is True
    assert predict(rig, {"version": "1", "input": long}).json["output"] == long
    assert predict(rig, {"other": 1, "input": long}).json["output"] == long
    answers = predict(rig, {"input_batch": [long, [1.0], [2.0, 3.0]]}).json["batch_predictions"]
    assert [one["output"] for one in answers] == [long, [1.0], [2.0, 3.0]]
    assert predict(rig, {"input_batch": [long, []]}).status == 400


def test_application_over_its_limit_gets_its_default_output_at_once(rig: Rig) -> None:
    route = VersionRoute("k1", "d" * 64, "doubles", (rig.start_peer("slow:100"),))
    apps = {
        "narrow": AppRoute("doubles", 2_000_000, "-1", "m", max_concurrent=2),
        "wide": AppRoute("doubles", 2_000_000, "-1", "m"),
    }
    rig.route(apps, {"m": ModelRoute(active="1", versions={"1": route}, cache=False)})
    for _ in range(2):
        reply = predict(rig, {"input_batch": [[1.0], [2.0], [3.0], [4.0]]}, "/narrow/predict").json
        assert [one["default"] for one in reply["batch_predictions"]] == [False, False, True, True]
        assert reply["batch_predictions"][3]["default_explanation"] == "Application narrow is over its limit of queries"
    wide = predict(rig, {"input_batch": [[1.0]] * 8}, "/wide/predict").json["batch_predictions"]
    assert not any(one["default"] for one in wide)
    assert rig.metrics()["apps"]["narrow"]["defaults"] == {"limit": 4}


def test_version_named_by_a_header_is_pinned_for_json_too(rig: Rig) -> None:
    rig.serve(rig.start_peer("name:first"))
    reply = _post(rig, b'{"input": [1]}', {"Clipperfs-Version": "9"})[1]
    assert reply["default_explanation"] == "Version 9 of model m is not loaded"
    assert _post(rig, b'{"input": [1], "version": "1"}', {"Clipperfs-Version": "9"})[1]["output"] == "first"
