"""Long lists of numbers that replicas read: real frontends and replicas, good and bad bodies, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clipperfs.serverd.routing import AppRoute, ModelRoute, VersionRoute

from tests.integration.frontend_rig import Reply, Rig, ask

pytest.importorskip("simdjson")

COUNT = 300
MIRROR = """
class Wrapper:
    def predict(self, inputs):
        assert not inputs.flags.writeable and inputs.flags.c_contiguous
        return [row.tobytes().hex() for row in inputs]
"""


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def body(first: float | str, count: int = COUNT) -> bytes:
    return f'{{"input":[{first}{", 0.25" * (count - 1)}]}}'.encode()


def post(rig: Rig, raw: bytes) -> Reply:
    return ask(rig, "POST", "/app/predict", raw)


def warm(rig: Rig) -> None:
    """Have the frontend learn that the model is cheap."""
    for _ in range(3):
        assert post(rig, body(1)).json["default"] is False


def prime(rig: Rig) -> None:
    """Have the frontend find that a query costs the model next to nothing, however slow the machine is."""
    inputs = json.dumps({"input_batch": [[0.25] * COUNT] * 60}).encode()
    for _ in range(20):
        post(rig, inputs)


def batches(log: Path) -> list[list[Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["floats", "doubles"])
def test_good_and_bad_bodies_at_once_get_the_replies_of_the_usual_way(rig: Rig, kind: str) -> None:
    Path(rig.runtime, "wrapper.py").write_text(MIRROR)
    cases = [body(0.1), body(-0.0), body(2**70), body("1e39"), body("NaN"), body("null"), body(1, COUNT + 1),
             body(7)[:-1], body(7) + b"x", body('"a"'), body("[1]")]  # fmt: skip
    identity = rig.start_replica("python", kind, allow_code=True)
    # Limits have bodies read before they are queued: the usual way, of the same frontend.
    version = VersionRoute("k1", "d" * 64, kind, (identity,), input_size=COUNT)
    limited = AppRoute(kind, 20_000_000, "-1", "m", max_concurrent=64)
    rig.route({"app": limited}, {"m": ModelRoute(active="1", versions={"1": version}, cache=False)})
    warm(rig)
    assert not reads_texts(rig)
    usual = [post(rig, case) for case in cases]
    rig.serve(identity, input_type=kind, slo_ms=20_000, input_size=COUNT)
    prime(rig)
    assert post(rig, body(1)).json["default"] is False
    assert reads_texts(rig)
    before = rig.metrics()["apps"]["app"]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda case: post(rig, case), cases * 8))
    for reply, expected in zip(replies, usual * 8, strict=True):
        assert reply.status == expected.status
        assert without_id(reply.json) == without_id(expected.json)
    after = rig.metrics()["apps"]["app"]
    bad = sum(one.status == 400 for one in usual) * 8
    assert 0 < bad < len(replies)
    assert after["bad_requests"] - before["bad_requests"] == bad
    assert after["queries"] - before["queries"] == len(replies) - bad


def without_id(reply: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in reply.items() if name != "query_id"}


def reads_texts(rig: Rig) -> bool:
    """Return whether the replica has read a text: before that it does not load what reads them."""
    return "csimdjson" in Path(f"/proc/{rig.replicas[-1].pid}/maps").read_text()


def test_text_that_a_replica_cannot_read_is_sent_to_it_once_more_as_numbers(rig: Rig, tmp_path: Path) -> None:
    rig.ways = ("lane", "text")
    log = tmp_path / "log"
    rig.serve(rig.start_peer(f"log:{log}"), slo_ms=5000)
    warm(rig)
    assert post(rig, body(13)).json["output"][:2] == [13.0, 0.25]
    assert batches(log)[-3:] == [[1, [1.0], "text"], [1, [13.0], "text"], [1, [13.0]]]
    assert rig.metrics()["apps"]["app"]["queries"] == 4


def test_replica_of_before_is_sent_numbers(rig: Rig, tmp_path: Path) -> None:
    rig.ways = ("lane",)
    log = tmp_path / "log"
    rig.serve(rig.start_peer(f"log:{log}"), slo_ms=5000)
    warm(rig)
    assert batches(log) == [[1, [1.0]]] * 3


def test_one_replica_of_before_among_others_has_all_sent_numbers(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rig.serve(rig.start_peer("lane", f"log:{log}"), rig.start_peer("lane", "text", f"log:{log}"), slo_ms=5000)
    for _ in range(4):
        warm(rig)
    assert all(len(batch) == 2 for batch in batches(log))


def test_text_whose_replica_is_killed_is_packed_for_another(rig: Rig, tmp_path: Path) -> None:
    rig.ways = ("lane", "text")
    log = tmp_path / "log"
    identities = [rig.start_peer("die-on:5", f"log:{log}"), rig.start_peer(f"log:{log}")]
    rig.serve(*identities, slo_ms=5000)
    warm(rig)
    for _ in range(4):  # whichever of the two it meets
        reply = post(rig, body(5)).json
        assert (reply["default"], reply["output"][0]) == (False, 5.0)
        if rig.children[0].poll() is not None:
            break
    assert rig.children[0].poll() is not None
    at = batches(log).index([1, [5.0]])
    assert batches(log)[at - 1] == [1, [5.0], "text"]


def test_bad_body_is_refused_though_its_replica_dies_with_it(rig: Rig) -> None:
    rig.ways = ("lane", "text")
    rig.serve(rig.start_peer("die-on:5"), slo_ms=5000, input_size=COUNT)
    warm(rig)
    reply = post(rig, body(5, COUNT - 1))
    assert (reply.status, reply.json["cause"]) == (
        400,
        f"model m expects {COUNT} elements in an input, not {COUNT - 1}",
    )


def test_bad_body_is_refused_at_its_deadline_when_its_replica_hangs(rig: Rig) -> None:
    rig.ways = ("lane", "text")
    rig.serve(rig.start_peer("once"), slo_ms=300, input_size=COUNT)
    post(rig, body(1))
    assert post(rig, body("1, 1")).status == 400
    assert post(rig, body(1)).json["default"] is True


def test_batches_larger_than_a_lane_takes_arrive(rig: Rig) -> None:
    rig.serve(rig.start_replica("noop", output="[7]"), slo_ms=20_000)
    warm(rig)
    raw = [body(number, 25_000) for number in range(24)]
    with ThreadPoolExecutor(24) as pool:
        assert [reply.json["output"] for reply in pool.map(lambda one: post(rig, one), raw)] == [[7]] * 24
