"""``make bench`` as a whole: a benchmark that fails or cannot run costs no other its table or its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run
from benchmarks.tools import ToolMissing

Run = Callable[[Path, bool], dict[str, Any]]


def measures(folder: Path, quick: bool) -> dict[str, Any]:
    (folder / "scratch").touch()
    return {"rows": [7]}


def fails(folder: Path, quick: bool) -> dict[str, Any]:
    raise RuntimeError("the machine is too busy to measure")


def is_interrupted(folder: Path, quick: bool) -> dict[str, Any]:
    raise KeyboardInterrupt


def render(result: dict[str, Any]) -> str:
    return f"table of {result['rows']}"


def cannot_render(result: dict[str, Any]) -> str:
    raise KeyError("p99")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command with benchmarks of the test's own; the results go to ``results.json``."""
    monkeypatch.setattr(run, "describe_machine", lambda: {"machine": "any"})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def main(
        benchmarks: dict[str, Run], *, tools: dict[str, Sequence[str]] | None = None, renders: Any = render
    ) -> int:
        listed = {name: (one, renders, tuple((tools or {}).get(name, ()))) for name, one in benchmarks.items()}
        monkeypatch.setattr(run, "BENCHMARKS", listed)
        return run.main(["--json", str(tmp_path / "results.json")])

    return main


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_benchmarks_that_all_measure_exit_0(bench: Callable[..., int], tmp_path: Path) -> None:
    assert bench({"first": measures, "second": measures}) == 0
    assert set(results(tmp_path)["second"]) == {"rows", "took_s"}


def test_benchmark_that_fails_is_told_of_and_the_others_go_on(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench({"first": measures, "broken": fails, "last": measures}) == 1
    found = results(tmp_path)
    assert found["broken"] == {"error": "failed: RuntimeError: the machine is too busy to measure"}
    assert found["first"]["rows"] == found["last"]["rows"] == [7]
    said = capsys.readouterr()
    assert said.out.count("table of [7]") == 2
    assert "broken: failed: RuntimeError: the machine is too busy to measure" in said.out
    assert "Traceback" in said.err
    assert said.err.endswith("broken: failed: RuntimeError: the machine is too busy to measure\n")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_figures_whose_table_cannot_be_made_are_kept(bench: Callable[..., int], tmp_path: Path) -> None:
    assert bench({"odd": measures}, renders=cannot_render) == 1
    odd = results(tmp_path)["odd"]
    assert (odd["rows"], odd["error"]) == ([7], "failed: KeyError: 'p99'")


def test_interrupt_ends_the_run_at_once_and_keeps_what_was_measured(bench: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench({"first": measures, "long": is_interrupted, "never": fails})
    assert set(results(tmp_path)) == {"machine", "quick", "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_missing_tool_stops_only_the_benchmarks_that_need_it(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def require_tool(name: str) -> str:
        if name == "nginx":
            raise ToolMissing("the benchmark needs nginx: install it first")
        return name

    monkeypatch.setattr(run, "require_tool", require_tool)
    tools = {"web": ("wrk", "nginx"), "load": ("wrk",)}
    assert bench({"web": fails, "load": measures, "plain": measures}, tools=tools) == 1
    found = results(tmp_path)
    assert found["web"] == {"error": "not run: the benchmark needs nginx: install it first"}
    assert found["load"]["rows"] == found["plain"]["rows"] == [7]
    assert "web: not run: the benchmark needs nginx: install it first" in capsys.readouterr().err
