"""batching: the answers within the SLO that adaptive batches give, beside the best fixed size, a delay, and no batches.

Three synthetic models sleep for as long as a batch of their kind takes, so that the processor is not what limits them.
The load is an open loop with random gaps at more than the model can answer. Sizes are searched first, each measured
once; then the rounds: the best fixed size with its neighbours, and the others, in an order that turns. At last the
adaptive batches alone, some times, at a rate that they can bear.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.server import post
from benchmarks.serving import run_daemon
from benchmarks.table import render_table, spread
from clipperfs import Daemon, Registry
from clipperfs.bench import LoadPlan, LoadReport, run_load, summarise

WRAPPER = '''
"""Sleeps as long as a batch takes, and answers a constant."""

import time


class Wrapper:
    bytes_as = "int8"

    def load(self, context):
        options = context.options
        self.base_s, self.row_s = options["base_ms"] / 1000, options["row_ms"] / 1000
        self.step_s, self.step_rows = options["step_ms"] / 1000, options["step_rows"]

    def predict(self, inputs):
        steps = -(-len(inputs) // self.step_rows)
        time.sleep(self.base_s + self.row_s * len(inputs) + self.step_s * steps)
        return [0] * len(inputs)
'''

BODY = b'{"input":[0.5,1.5]}'
DELAY_MS = 3.0
ADAPTIVE, DELAYED, NONE = "adaptive", "adaptive, delayed", "no batches"


@dataclass(frozen=True, slots=True)
class Synthetic:
    """What a batch takes: ``base_ms``, ``row_ms`` for each query, ``step_ms`` for each started ``step_rows``."""

    name: str
    slo_ms: float
    max_batch: int
    sizes: tuple[int, ...]
    """The fixed sizes to search, in order."""
    base_ms: float = 0.0
    row_ms: float = 0.0
    step_ms: float = 0.0
    step_rows: int = 1

    def cost_ms(self, rows: int) -> float:
        """Return how long a batch takes."""
        return self.base_ms + self.row_ms * rows + self.step_ms * -(-rows // self.step_rows)

    def most_per_s(self) -> float:
        """Return how many queries a second the best size answers at most, two batches of it fitting into the SLO."""
        rows = [rows for rows in self.sizes if 2 * self.cost_ms(rows) <= self.slo_ms]
        return max(one / self.cost_ms(one) * 1000 for one in rows)

    def text(self) -> str:
        """Return the cost for people."""
        parts = [f"{self.base_ms:g} ms"]
        parts += [f"{self.row_ms:g} ms a query"] if self.row_ms else []
        parts += [f"{self.step_ms:g} ms for each {self.step_rows} begun"] if self.step_ms else []
        return f"{self.name}: {' + '.join(parts)}; SLO {self.slo_ms:g} ms"


MODELS = (
    Synthetic("constant", 50, 16, (4, 8, 16), base_ms=10),
    Synthetic("linear", 50, 512, (24, 32, 40, 48, 56, 64), base_ms=2, row_ms=0.4),
    Synthetic("step", 50, 512, (16, 32, 48, 64, 80), base_ms=3, step_ms=5, step_rows=16),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. ``overload`` is the rate over what the best size answers at most, ``tail`` the calm runs."""

    rounds: int = 3
    seconds: float = 2.0
    warm_up_s: float = 1.0
    tail_rounds: int = 3
    tail_seconds: float = 5.0
    overload: float = 1.15
    connections: int = 400
    models: tuple[Synthetic, ...] = MODELS


QUICK = Plan(rounds=1, seconds=0.5, warm_up_s=0.5, tail_rounds=1, tail_seconds=0.5)


def run_batching(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure all models; return plain data."""
    rows = [measure_model(folder / model.name, model, plan) for model in plan.models]
    settings = {name: value for name, value in asdict(plan).items() if name != "models"}
    return {"plan": settings, "rows": rows}


def measure_model(folder: Path, model: Synthetic, plan: Plan) -> dict[str, Any]:
    """Search the best fixed size of a model, then measure it beside the others in rounds."""
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    for name, settings in variants(model).items():
        add_variant(registry, folder, app_name(name), model, settings)
    with run_daemon(registry, folder / "state") as daemon:
        rate = plan.overload * model.most_per_s()
        for name in variants(model):
            await_prediction(f"http://127.0.0.1:{daemon.port}/{app_name(name)}/predict")
        searched = {size: goodput(ask(daemon, fixed_name(size), model, rate, plan, 1)) for size in model.sizes}
        names = [*map(fixed_name, neighbours(searched)), ADAPTIVE, DELAYED, NONE]
        cell: dict[str, list[float]] = defaultdict(list)
        for turn in range(plan.rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                cell[name].append(goodput(ask(daemon, name, model, rate, plan, turn + 2)))
        result = summarise_model(cell)
        if not result["best_per_s"]:
            raise RuntimeError(
                f"no answer of model {model.name} came within its SLO: the machine is too busy to measure"
            )
        calm_rate = 0.8 * result["best_per_s"]
        seeds = range(1, plan.tail_rounds + 1)
        calm = [ask(daemon, ADAPTIVE, model, calm_rate, plan, seed, seconds=plan.tail_seconds) for seed in seeds]
    return {
        "model": model.name,
        "text": model.text(),
        "rate": rate,
        "searched": {str(size): value for size, value in searched.items()},
        **result,
        "calm": summarise_calm(calm_rate, calm),
    }


def variants(model: Synthetic) -> dict[str, dict[str, Any]]:
    """Return what ``model.yaml`` says for each way of batching, by its name."""
    ways: dict[str, dict[str, Any]] = {fixed_name(size): {"fixed_batch": size} for size in model.sizes}
    ways[ADAPTIVE] = {}
    ways[DELAYED] = {"batch_delay_ms": DELAY_MS}
    ways[NONE] = {"fixed_batch": 1}
    return ways


def fixed_name(size: int) -> str:
    """Return what a fixed size is called."""
    return f"fixed {size}"


def app_name(name: str) -> str:
    """Return the name of a variant's model and application."""
    return name.replace(",", "").replace(" ", "-")


def add_variant(registry: Registry, folder: Path, name: str, model: Synthetic, settings: dict[str, Any]) -> None:
    """Publish a synthetic model under a name of its own, and link an application of that name."""
    files = folder / "files" / name
    files.mkdir(parents=True)
    (files / "wrapper.py").write_text(WRAPPER)
    costs = {key: getattr(model, key) for key in ("base_ms", "row_ms", "step_ms", "step_rows")}
    author = {
        "wrapper": {"kind": "python", **costs},
        "input_type": "floats",
        "sample": [[0.0, 0.0]],
        "max_batch": model.max_batch,
        **settings,
    }
    (files / "model.yaml").write_text(json.dumps(author))
    registry.policy(name, {"allow_code": True, "cache": "off"})
    registry.publish(name, "1", files, activate=True)
    registry.app_register(name, input_type="floats", default_output="none", slo_us=int(model.slo_ms * 1000), link=name)


def ask(
    daemon: Daemon, name: str, model: Synthetic, rate: float, plan: Plan, seed: int, *, seconds: float | None = None
) -> LoadReport:
    """Ask one variant at a rate, and return what came of it."""
    load = LoadPlan(
        host="127.0.0.1",
        port=daemon.port,
        path=f"/{app_name(name)}/predict",
        bodies=[BODY],
        rate=rate,
        seconds=seconds or plan.seconds,
        warm_up_s=plan.warm_up_s,
        connections=plan.connections,
        poisson=True,
        seed=seed,
    )
    report = summarise(load, run_load(load), model.slo_ms / 1000)
    if report.failures:
        raise RuntimeError(f"{name} of {model.name} failed: {dict(report.failures)}")
    return report


def await_prediction(url: str) -> None:
    """Return once a query has had a prediction; on a busy machine the first ones may miss their SLO."""
    for _ in range(100):
        if not json.loads(post(url, BODY)[0])["default"]:
            return
    raise RuntimeError(f"{url} gives nothing but default outputs")


def goodput(report: LoadReport) -> float:
    """Return the predictions a second that came within the SLO."""
    return (report.within_slo or 0.0) * report.answered / report.seconds


def neighbours(searched: dict[int, float]) -> list[int]:
    """Return the fixed size that was best in the search, and those beside it."""
    sizes = list(searched)
    at = max(range(len(sizes)), key=lambda place: searched[sizes[place]])
    return sizes[max(0, at - 1) : at + 2]


def summarise_model(cell: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the rows of a model: goodput, and its ratios to the best fixed size and to no batches, by rounds.

    The best fixed size is that with the largest median; ratios are taken within a round.
    """
    fixed = [name for name in cell if name.startswith("fixed ")]
    best = max(fixed, key=lambda name: spread(cell[name]).median)
    ways = [
        {
            "way": name,
            "goodput": spread(runs).document(),
            "ratio_to_best": spread(
                [run / max(1.0, own) for run, own in zip(runs, cell[best], strict=True)]
            ).document(),
            "ratio_to_none": spread(
                [run / max(1.0, own) for run, own in zip(runs, cell[NONE], strict=True)]
            ).document(),
        }
        for name, runs in cell.items()
    ]
    return {"best": best, "best_per_s": spread(cell[best]).median, "ways": ways}


def summarise_calm(rate: float, runs: Sequence[LoadReport]) -> dict[str, Any]:
    """Return how many answers of each run came within the SLO, and the latency that one in a thousand exceeded."""
    return {
        "rate": rate,
        "within_slo": spread([run.within_slo or 0.0 for run in runs]).document(),
        "p999_ms": spread([run.latency_ms["p99.9"] for run in runs]).document(),
    }


def render_batching(result: dict[str, Any]) -> str:
    """Return the tables that people read."""
    plan = result["plan"]
    head = (
        f"batching: answers within the SLO a second, median (lowest–highest) of {plan['rounds']} rounds of"
        f" {plan['seconds']} s, at {plan['overload']:g} times what the best size could answer; below each table"
        f" the share within the SLO in {plan['tail_rounds']} of {plan['tail_seconds']:g} s at 80 % of what the best did"
    )
    return "\n\n".join([head, *(_render_model(row) for row in result["rows"])])


def _render_model(row: dict[str, Any]) -> str:
    table = render_table(
        [row["text"], "within SLO/s", ": best fixed", ": no batches"],
        [
            [
                way["way"] + (" (best)" if way["way"] == row["best"] else ""),
                _text(way["goodput"], 0),
                _text(way["ratio_to_best"], 2),
                _text(way["ratio_to_none"], 1),
            ]
            for way in row["ways"]
        ],
    )
    calm, searched = row["calm"], ", ".join(f"{size}: {value:,.0f}" for size, value in row["searched"].items())
    return (
        f"{table}\n\nasked {row['rate']:,.0f}/s; searched {searched}\n"
        f"adaptive at {calm['rate']:,.0f}/s, 80 % of the best: {_percent(calm['within_slo'])} % within the SLO,"
        f" p99.9 {_text(calm['p999_ms'], 1)} ms"
    )


def _percent(value: dict[str, float]) -> str:
    return _text({name: 100 * share for name, share in value.items()}, 2)


def _text(value: dict[str, float], digits: int) -> str:
    return f"{value['median']:,.{digits}f} ({value['low']:,.{digits}f}–{value['high']:,.{digits}f})"
