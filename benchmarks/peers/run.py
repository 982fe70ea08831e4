"""Measures clipperfs and its neighbours one after the other, each alone, each beside the echo, in one table.

Of each server and model: install, start, compare its answers with the model's own, warm up, then rounds; in every
round, for each number of connections, the echo is loaded for a second and the server directly after it. A neighbour
that cannot be installed, started or trusted is a row with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.load import measure
from benchmarks.machine import describe_machine, machine_is_busy
from benchmarks.peers.bentoml import BentoML
from benchmarks.peers.check import check_answers, inputs_of
from benchmarks.peers.environments import PINNED_FOR, default_place
from benchmarks.peers.litserve import LitServe
from benchmarks.peers.mlflow import MLflow
from benchmarks.peers.mlserver import MLServer
from benchmarks.peers.ours import Clipperfs
from benchmarks.peers.peer import NotRun, Peer
from benchmarks.peers.ray import RayServe
from benchmarks.peers.rows import OURS, Pair, add_leads, render, summarise
from benchmarks.peers.served.answers import FEATURES, write_weights
from benchmarks.peers.torchserve import TorchServe
from benchmarks.peers.triton import Triton
from benchmarks.server import Target, run_echo
from benchmarks.tools import ToolMissing, require_tool

Number = TypeVar("Number", int, float)

PEERS: dict[str, Callable[[Path], Peer]] = {
    OURS: lambda place: Clipperfs(),
    **{peer.name: peer for peer in (Triton, MLServer, LitServe, BentoML, MLflow, RayServe, TorchServe)},
}
"""All of them, in the order in which they are measured and shown; each takes the place of the environments."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long."""

    models: tuple[str, ...] = tuple(FEATURES)
    connections: tuple[int, ...] = (1, 32, 128)
    rounds: int = 5
    seconds: float = 3.0
    echo_s: float = 1.0
    warm_up_s: float = 1.0
    """At each number of connections, before the first round. wrk is lost when it is ended within 0.3 s."""


QUICK = Plan(connections=(1, 32), rounds=1, seconds=0.5, echo_s=0.5, warm_up_s=1.0)


def measure_peer(peer: Peer, model: str, plan: Plan, echo: Target, folder: Path) -> list[dict[str, Any]]:
    """Measure one server with one model; return a row for each number of connections.

    Raises:
        NotRun: it did not start, its answers are not the model's own, or it answered nothing under load.
    """
    folder.mkdir(parents=True)
    write_weights(folder)
    body = folder / "body.json"
    body.write_bytes(peer.body(inputs_of(model, 1)[0]))
    pairs: dict[int, list[Pair]] = defaultdict(list)
    try:
        home = folder / "server"
        home.mkdir()
        peer.start(model, home)
        target = Target(peer.name, peer.url, peer.root_pid, lambda reply: None)
        check_answers(peer, model, folder)
        for connections in plan.connections:
            with contextlib.suppress(RuntimeError):  # a cold server may answer nothing in so short a time
                measure(target, body, connections=connections, duration_s=plan.warm_up_s)
        for _ in range(plan.rounds):
            for connections in plan.connections:
                check_answers(peer, model, folder)  # and what an overloaded server still had in hand is done
                before = measure(echo, body, connections=connections, duration_s=plan.echo_s)
                run = measure(target, body, connections=connections, duration_s=plan.seconds)
                pairs[connections].append((before, run))
        check_answers(peer, model, folder)
    except RuntimeError as error:
        raise NotRun(str(error)) from error
    finally:
        peer.stop()
    return [summarise(peer.name, model, connections, found) for connections, found in pairs.items()]


def run(peers: Sequence[Peer], plan: Plan, folder: Path) -> dict[str, Any]:
    """Measure all; return plain data."""
    rows: list[dict[str, Any]] = []
    not_run: dict[str, str] = {}
    with run_echo() as echo:
        for peer in peers:
            doing = "installing"
            try:
                peer.install()
                for model in plan.models:
                    doing = model
                    _say(f"{peer.name}, {model} …")
                    rows += measure_peer(peer, model, plan, echo, folder / f"{peer.name}-{model}")
            except (NotRun, OSError, subprocess.SubprocessError) as error:
                not_run[peer.name] = " ".join(f"{doing}: {error}".split())[:400]
                _say(f"{peer.name}, {not_run[peer.name]}")
    add_leads(rows)
    versions = {peer.name: peer.version() for peer in peers}
    settings = {peer.name: peer.settings for peer in peers}
    return {"plan": asdict(plan), "rows": rows, "not_run": not_run, "versions": versions, "settings": settings}


def render_result(result: dict[str, Any]) -> str:
    """Return all that is printed: how it was measured, the table, and every server's settings."""
    plan, names = result["plan"], list(result["settings"])
    head = (
        f"peers: median (lowest–highest) of {plan['rounds']} rounds of {plan['seconds']} s, each server alone; "
        f"`: echo` is the ratio to the echo measured directly before, `{OURS} ×` how many times that ratio ours is"
    )
    table = render(result["rows"], result["not_run"], order=names)
    notes = [f"- {name}: {result['versions'][name]}; {result['settings'][name]}" for name in names]
    notes += [f"- {name} did not run: {reason}" for name, reason in result["not_run"].items()]
    return f"{head}\n\n{table}\n\n" + "\n".join(notes)


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, Plan]:
    """Return the options and the plan that they make; exits with a message when one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.partition("\n")[0])
    names = _names_of(PEERS)
    parser.add_argument("--peers", type=names, default=list(PEERS), metavar="A,B", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--models", type=_names_of(FEATURES), metavar="A,B", help=f"of {', '.join(FEATURES)}")
    parser.add_argument("--connections", type=_counts, metavar="N,M", help="numbers of connections (1,32,128)")
    parser.add_argument(
        "--rounds", type=_positive(int), metavar="N", help=f"how often each is measured ({Plan().rounds})"
    )
    parser.add_argument("--seconds", type=_positive(float), metavar="S", help=f"how long each time ({Plan().seconds})")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does it work, not how fast is it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    parser.add_argument(
        "--environments", type=Path, metavar="DIR", help=f"where servers are installed ({default_place()})"
    )
    options = parser.parse_args(arguments)
    chosen = {name: getattr(options, name) for name in ("models", "connections", "rounds", "seconds")}
    plan = QUICK if options.quick else Plan()
    return options, replace(plan, **{name: value for name, value in chosen.items() if value is not None})


def _names_of(known: Sequence[str] | dict[str, Any]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; there are {', '.join(known)}")
        return tuple(name for name in known if name in names)

    return parse


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(int)(part) for part in text.split(","))


def _positive(kind: type[Number]) -> Callable[[str], Number]:
    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return value

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code. A neighbour that did not run is a row, no failure."""
    options, plan = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    if sys.version_info[:2] != PINNED_FOR and set(options.peers) != {OURS}:
        print(wrong_python(), file=sys.stderr)
        return 1
    try:
        require_tool("wrk")
    except ToolMissing as error:
        print(error, file=sys.stderr)
        return 1
    machine = describe_machine()
    for label, text in machine.items():
        print(f"{label:12} {text}")
    if machine_is_busy():
        print("\nThe machine is busy with something else: trust ratios and processor time, not rates and latencies.")
    began_s = time.monotonic()
    place = options.environments or default_place()
    folder = Path(tempfile.mkdtemp(prefix="clipperfs-peers-"))
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, folder, ignore_errors=True)
        result = run([PEERS[name](place) for name in options.peers], plan, folder)
    result["took_s"] = round(time.monotonic() - began_s, 1)
    print(f"\n{render_result(result)}\n({result['took_s']:.0f} s)", flush=True)
    if options.json:
        document = {"machine": machine, "quick": options.quick, **result}
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0


def wrong_python() -> str:
    """Return what to do about a Python that the pins are not for."""
    pinned, own = (".".join(map(str, version)) for version in (PINNED_FOR, sys.version_info[:2]))
    return (
        f"the environments of the other servers are pinned for Python {pinned}, and this is {own}: "
        f"make bench-peers PYTHON=python{pinned} VENV=.venv-{pinned} (--peers {OURS} runs on any)"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
