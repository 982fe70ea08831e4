"""``bench``: queries at a fixed rate to a running daemon, and how long the answers take."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call, figures
from clipperfs.cli.frame import command
from clipperfs.cli.predict import daemon_address, read_input
from clipperfs.cli.text import visible
from clipperfs.cli.value import DURATION

if TYPE_CHECKING:
    from clipperfs.bench import LoadReport

DISTINCT = 1000


@command(
    "bench",
    short_help="Measure an application's latency at a fixed rate.",
    examples=[
        "clipperfs bench digit-reader --rate 500",
        "clipperfs bench digit-reader --rate 2000 --duration 30s --poisson --json",
        "clipperfs bench digit-reader --rate 500 --raw",
        "clipperfs bench greeter '\"hello\"' --rate 100 --url http://10.0.0.7:1337",
    ],
)
@click.argument("app")
@click.argument("input", metavar="[INPUT]", required=False)
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 200_000),
    default=100.0,
    show_default=True,
    metavar="N",
    help="Queries a second.",
)
@click.option(
    "--duration", "seconds", type=DURATION, default="10s", show_default=True, help="How long, after the warm-up."
)
@click.option("--warm-up", "warm_up_s", type=DURATION, default="1s", show_default=True, help="Left out of the figures.")
@click.option(
    "--connections",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Open exactly so many.  [default: 64, and more while none is free]",
)
@click.option("--poisson", is_flag=True, help="Random gaps between queries, as many independent clients make.")
@click.option(
    "--size",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Elements of a made-up input.  [default: the model's]",
)
@click.option("--raw", is_flag=True, help="Send the inputs' bytes as they are, not JSON.")
@click.option("--no-plot", is_flag=True, help="Only the figures.")
@click.option("--url", metavar="URL", help="The daemon's address.  [default: the daemon of the registry, or port 1337]")
@click.option("--port", type=click.IntRange(1, 65535), help="The daemon's port on this host.")
@click.pass_context
def bench(
    context: click.Context,
    call: Call,
    app: str,
    input: str | None,  # noqa: A002
    rate: float,
    seconds: float,
    warm_up_s: float,
    connections: int | None,
    poisson: bool,
    size: int | None,
    raw: bool,
    no_plot: bool,
    url: str | None,
    port: int | None,
) -> None:
    """Send queries to application APP at a fixed rate, and show how long the answers take.

    An open loop: a query is sent when it is due, whether or not earlier ones are answered, and its latency counts from
    that moment, so that a slow server cannot slow the measurement down. Where no connection is free, another is
    opened, up to 960. INPUT is JSON, @FILE or -; without it, 1,000 different inputs of the model's type and size are
    made up (needs the registry), so that the cache answers those that come again: send more than 1,000 or switch it
    off to measure the model. Exit 1 when a query failed.

    With --raw the same inputs are sent as raw little-endian elements, which needs the registry, too: it knows of which
    type they are. A file that is no text is sent as it is.
    """
    if url and port:
        raise click.UsageError("Give either --url or --port.")
    from clipperfs.bench import LoadPlan, draw, run_load, summarise
    from clipperfs.bench.plan import JSON_TYPE, RAW_TYPE

    address = urlsplit(daemon_address(call, url, port))
    if address.scheme != "http":
        raise click.UsageError("Only http:// addresses can be measured.")
    slo_s, bodies = _inputs(call, app, input, size, raw)
    plan = LoadPlan(
        host=address.hostname or "127.0.0.1",
        port=address.port or 80,
        path=f"{address.path.rstrip('/')}/{app}/predict",
        bodies=bodies,
        rate=rate,
        seconds=seconds,
        warm_up_s=warm_up_s,
        connections=connections,
        poisson=poisson,
        content_type=RAW_TYPE if raw else JSON_TYPE,
    )
    call.say(f"{rate:g} queries a second to {app} for {seconds:g} s on {plan.first_connections} connections …")
    sample = run_load(plan)
    report = summarise(plan, sample, slo_s)

    def text() -> str:
        plot = "" if no_plot else draw(sample.latency_s, slo_s=slo_s)
        return "\n".join([*([plot, ""] if plot else []), *_lines(report, slo_s)])

    call.emit(figures(report), text)
    if report.late_ms > 10 and not call.json:
        call.say(
            f"the generator itself was late by up to {report.late_ms:.0f} ms: this machine is too busy to trust that"
        )
    if report.waited and not call.json:
        call.say(
            f"{report.waited:,} queries had to wait for a connection ({report.connections:,} open), out of the daemon's"
            " sight, and that counts; for more give --connections N"
        )
    if report.interrupted and not (report.answered or report.failures):
        context.exit(exit_table.INTERRUPTED)
    if report.failures or report.unfinished or not report.answered:
        context.exit(exit_table.FAILED)


def _inputs(call: Call, app: str, text: str | None, size: int | None, is_raw: bool) -> tuple[float | None, list[bytes]]:
    """Return the application's SLO, if the registry is known, and the bodies to send."""
    from clipperfs.bench.plan import json_input, random_bodies, raw_input
    from clipperfs.errors import InvalidInput

    record = None
    if call.settings().registry:
        registry = call.registry()
        record = registry.app_show(app)
    slo_s = record.state.slo_us / 1e6 if record is not None else None
    if text is not None:
        value = read_input(text)
        if not is_raw:
            return slo_s, [json_input(base64.b64encode(value).decode() if isinstance(value, bytes) else value)]
        if isinstance(value, bytes):
            return slo_s, [value]
        if record is None:
            raise click.UsageError("With --raw, give the registry (--registry), which knows what inputs are made of.")
        try:
            return slo_s, [raw_input(value, record.state.input_type)]
        except InvalidInput as error:
            raise click.UsageError(f"INPUT: {error.message}.") from error
    if record is None:
        raise click.UsageError("Give an INPUT, or the registry (--registry), which knows what inputs look like.")
    elements = size
    links = record.state.links
    if elements is None and links:
        elements = _input_size(registry, links[0].model)
    return slo_s, random_bodies(record.state.input_type, elements or 10, DISTINCT, is_raw=is_raw)


def _input_size(registry: Any, model: str) -> int | None:
    head = registry.head(model)
    active = head.record.state.active if head is not None else None
    if active is None:
        return None
    manifest = registry.show_version(model, active.version).manifest
    sample = manifest.settings.sample if manifest is not None else active.inherited.get("sample")
    if isinstance(sample, list) and isinstance(sample[0], list | str):
        return len(sample[0])
    return None


def _lines(report: LoadReport, slo_s: float | None) -> list[str]:
    latency = {name: "-" if ms != ms else f"{ms:.2f} ms" for name, ms in report.latency_ms.items()}
    lines = [
        f"answered   {report.answered:,} in {report.seconds:.1f} s: {report.answered_rate:,.1f} a second"
        f" of {report.asked_rate:,.1f} asked",
        "latency    " + "  ".join(f"{name} {latency[name]}" for name in ("p50", "p90", "p99", "p99.9", "max")),
    ]
    if report.within_slo is not None and slo_s is not None:
        lines.append(f"SLO        {report.within_slo:.3%} got a prediction within {slo_s * 1000:g} ms")
    for why, count in sorted(report.defaults.items(), key=lambda item: -item[1]):
        lines.append(f"default    {count:,}: {visible(why)}")
    for what, count in sorted(report.failures.items(), key=lambda item: -item[1]):
        lines.append(f"FAILED     {count:,}: {visible(what)}")
    if report.unfinished:
        lines.append(f"FAILED     {report.unfinished:,}: no answer")
    return lines
