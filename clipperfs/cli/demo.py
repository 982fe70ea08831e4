"""``demo``: the tour of the whole path on real data."""

from __future__ import annotations

from pathlib import Path

import click

from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.text import visible


@command(
    "demo",
    short_help="See it all work on real data, in a folder or bucket.",
    examples=[
        "clipperfs demo",
        "clipperfs demo --place ./tour",
        "clipperfs demo --registry s3://bucket/tours",
        "clipperfs demo --registry hdfs://namenode:8020/tmp",
    ],
)
@click.option("--place", type=click.Path(), help="Work in this new folder and keep it.  [default: a temporary one]")
@click.pass_context
def demo(context: click.Context, call: Call, place: str | None) -> None:
    """Train two models of handwritten digits, publish, serve, switch under load, refuse a worse one, and roll back.

    Nothing outside its folder is touched, and everything it starts ends with it. With --registry, given here and not by
    the environment, the registry lies in a fresh prefix demo-… below that address, which is removed in the end (with
    --place it is kept). Needs scikit-learn and skops.
    """
    if place is not None and Path(place).exists():
        raise click.UsageError(f"{place} exists; give a folder that does not.")
    from clipperfs.demo import main

    code = main(
        Path(place).absolute() if place is not None else None,
        url=call.registry_flag,
        say=lambda text: call.emit_line({"line": text}, visible(text)),
    )
    context.exit(code)
