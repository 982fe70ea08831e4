"""The benchmarks' arithmetic: medians, ratios within a round, and what clients saw around a switch."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.batching import (
    MODELS,
    Synthetic,
    neighbours,
    render_batching,
    summarise_calm,
    summarise_model,
    variants,
)
from benchmarks.clients import ANSWERED, DEFAULTED, FAILED
from benchmarks.load import Measurement
from benchmarks.machine import cpu_seconds, describe_machine, process_tree
from benchmarks.predict import summarise_cell
from benchmarks.steady_clients import MIXED, judge
from benchmarks.switch import Replies, summarise
from benchmarks.switches import Seen, Switch, render_switches
from benchmarks.switches import summarise as summarise_switches
from benchmarks.table import render_table, spread
from clipperfs.bench import LoadPlan, LoadReport, Reply, Sample
from clipperfs.bench import summarise as summarise_load


def measurement(rate: float, failed: int = 0) -> Measurement:
    return Measurement(rate, p50_ms=1.0, p99_ms=2.0, cpu_us=10.0, failed=failed)


def test_spread_of_three_is_the_middle_with_the_extremes() -> None:
    assert spread([3.0, 1.0, 10.0]).document() == {"median": 3.0, "low": 1.0, "high": 10.0}


def test_table_aligns_the_first_column_left_and_the_others_right() -> None:
    assert render_table(["what", "n"], [["a", 1], ["long one", 1000]]).splitlines() == [
        "| what     |    n |",
        "|----------|-----:|",
        "| a        |    1 |",
        "| long one | 1000 |",
    ]


def test_ratio_is_taken_within_a_round_and_not_between_medians() -> None:
    # The machine slows down by half from round to round, for both servers alike.
    cell = {
        "echo": [measurement(400), measurement(200), measurement(100)],
        "clipperfs": [measurement(200), measurement(100, failed=2), measurement(50)],
    }
    [_, row] = summarise_cell("noop", 32, cell, defaulted=3)
    assert row["ratio_to_echo"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert row["failed"] == 2
    assert row["defaulted"] == 3


def replies(rows: list[tuple[float, float, int, str]]) -> Replies:
    end_s, latency_s, outcome, version = zip(*rows, strict=True)
    return Replies(np.array(end_s), np.array(latency_s), np.array(outcome, dtype=np.int8), np.array(version))


CALM = [(at / 10, 0.001, ANSWERED, "1") for at in range(80, 100)]


def test_switch_counts_from_the_commit_to_the_first_new_answer() -> None:
    rows = [*CALM, (10.2, 0.001, ANSWERED, "1"), (10.7, 0.004, ANSWERED, "2"), (11.0, 0.001, ANSWERED, "2")]
    found = summarise(replies(rows), [(10.0, 10.1, "2")])
    assert found["commit_to_first_ms"]["median"] == pytest.approx(600)
    assert found["longest_gap_ms"] == pytest.approx(500)
    assert found["longest_ms"] == pytest.approx(4)
    assert (found["failed"], found["defaulted"], found["stale"]) == (0, 0, 0)


def test_switch_counts_failures_defaults_and_stale_answers() -> None:
    rows = [
        *CALM,
        (10.2, 0.001, FAILED, ""),
        (10.3, 0.001, DEFAULTED, ""),
        (10.7, 0.001, ANSWERED, "2"),
        (10.71, 0.1, ANSWERED, "1"),  # was sent before the first new answer: no fault
        (10.9, 0.001, ANSWERED, "1"),  # was sent after it: stale
    ]
    found = summarise(replies(rows), [(10.0, 10.1, "2")])
    assert (found["failed"], found["defaulted"], found["stale"]) == (1, 1, 1)


def test_switch_to_a_version_that_never_answers_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="version 2 has not answered"):
        summarise(replies(CALM), [(9.0, 9.1, "2")])


def seen(rows: list[tuple[float, float, int, str]], lost: int = 0) -> Seen:
    due_s, latency_s, outcome, version = zip(*rows, strict=True)
    return Seen(
        np.array(due_s), np.array(latency_s), np.array(outcome, dtype=np.int8), np.array(version), lost, late_s=0.002
    )


STEADY = [(at / 10, 0.001, ANSWERED, "1") for at in range(93, 100)]


def test_switches_count_from_the_commit_to_the_first_new_answer_less_the_load() -> None:
    rows = [*STEADY, (10.2, 0.001, ANSWERED, "1"), (11.65, 0.05, ANSWERED, "2"), (12.0, 0.001, ANSWERED, "2")]
    found = summarise_switches(seen(rows), [Switch(10.0, 10.1, "2")], load_s=1.5)
    assert found["beyond_load_ms"]["median"] == pytest.approx(100)
    assert found["p99_steady_ms"] == pytest.approx(1)
    assert found["longest_around_ms"] == pytest.approx(50)
    assert (found["requests"], found["failed"], found["stale"], found["mixed"]) == (len(rows), 0, 0, 0)


def test_switches_count_what_is_lost_mixed_defaulted_and_stale() -> None:
    rows = [
        *STEADY,
        (10.2, 0.001, FAILED, ""),
        (10.3, 0.001, DEFAULTED, "1"),
        (10.4, 0.001, MIXED, "1"),
        (10.69, 0.1, ANSWERED, "1"),  # was due before the first new answer: no fault
        (10.7, 0.001, ANSWERED, "2"),
        (10.9, 0.001, ANSWERED, "1"),  # was due after it: stale
    ]
    rows.sort(key=lambda row: row[0] + row[1])
    found = summarise_switches(seen(rows, lost=2), [Switch(10.0, 10.1, "2")], load_s=0.0)
    assert (found["failed"], found["defaulted"], found["mixed"], found["stale"]) == (3, 1, 1, 1)
    assert found["requests"] == len(rows) + 2
    assert "| loads at once " in render_switches(
        {"plan": {"rate": 500, "switches": 1}, "rows": [{"load": "loads at once", **found}]}
    )


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b'{"query_id":1,"output":"2","default":false}', ANSWERED),
        (b'{"query_id":1,"output":"1","default":false}', MIXED),
        (b'{"query_id":1,"output":"none","default":true,"default_explanation":"late"}', DEFAULTED),
        (b'{"batch_predictions":[{"output":2,"default":false},{"output":2,"default":false}]}', ANSWERED),
        (b'{"batch_predictions":[{"output":2,"default":false},{"output":1,"default":false}]}', MIXED),
    ],
)
def test_reply_is_judged_by_its_header_and_by_every_output(body: bytes, outcome: int) -> None:
    assert judge(Reply(1.0, 0.001, 200, "2", body)) == outcome
    assert judge(Reply(1.0, 0.001, 503, "", body)) == FAILED


def test_process_tree_holds_this_process_and_cpu_time_grows() -> None:
    before_s = cpu_seconds([os.getpid()])
    while cpu_seconds([os.getpid()]) < before_s + 0.02:
        sum(range(10_000))
    assert os.getpid() in process_tree(os.getppid())


def test_machine_description_names_no_path_but_the_temporary_folder() -> None:
    description = describe_machine()
    assert description["python"]
    assert not any("/" in text for label, text in description.items() if label in ("machine", "packages", "checkout"))


def test_best_fixed_size_is_measured_beside_its_neighbours() -> None:
    assert neighbours({8: 1.0, 16: 3.0, 32: 2.0, 64: 0.0}) == [8, 16, 32]
    assert neighbours({8: 3.0, 16: 1.0}) == [8, 16]


def test_ratio_to_the_best_fixed_size_is_taken_within_a_round() -> None:
    cell = {
        "fixed 8": [100.0, 10.0, 100.0],
        "fixed 16": [200.0, 20.0, 210.0],
        "adaptive": [180.0, 20.0, 189.0],
        "no batches": [20.0, 0.0, 10.0],
    }
    found = summarise_model(cell)
    assert (found["best"], found["best_per_s"]) == ("fixed 16", 200.0)
    [_, _, adaptive, _] = found["ways"]
    assert adaptive["ratio_to_best"] == {"median": 0.9, "low": 0.9, "high": 1.0}
    assert adaptive["ratio_to_none"]["median"] == pytest.approx(18.9)
    row = {
        "text": "constant",
        "rate": 230.0,
        "searched": {"8": 100.0, "16": 200.0},
        **found,
        "calm": summarise_calm(160.0, [calm_run(1.0, 20.0), calm_run(0.92, 49.0), calm_run(0.9987, 30.0)]),
    }
    plan = {"rounds": 3, "seconds": 2.0, "overload": 1.15, "tail_rounds": 3, "tail_seconds": 5.0}
    text = render_batching({"plan": plan, "rows": [row]})
    assert "fixed 16 (best)" in text
    assert "0.90 (0.90–1.00)" in text
    assert "the share within the SLO in 3 of 5 s at 80 %" in text
    assert (
        "adaptive at 160/s, 80 % of the best: 99.87 (92.00–100.00) % within the SLO, p99.9 30.0 (20.0–49.0) ms" in text
    )


def calm_run(within_slo: float | None, p999_ms: float) -> LoadReport:
    load = LoadPlan(host="127.0.0.1", port=1, path="/", bodies=[b"{}"], rate=160.0, seconds=5.0)
    report = summarise_load(load, Sample([0.0], [p999_ms / 1000], {}, {}))
    return replace(report, within_slo=within_slo)


def test_calm_run_without_any_answer_counts_as_none_in_time() -> None:
    assert summarise_calm(160.0, [calm_run(None, 20.0)])["within_slo"] == {"median": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_fixed_sizes_searched_have_the_best_one_inside(model: Synthetic) -> None:
    rates = {size: size / model.cost_ms(size) * 1000 for size in model.sizes if 2 * model.cost_ms(size) <= model.slo_ms}
    assert model.most_per_s() == max(rates.values())
    assert max(model.sizes) == model.max_batch or 2 * model.cost_ms(max(model.sizes)) > model.slo_ms
    assert variants(model)["no batches"] == {"fixed_batch": 1}
