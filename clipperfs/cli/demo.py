"""``demo``: the tour of the whole path on real data."""

from __future__ import annotations

from pathlib import Path

import click

from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.text import visible


@command(
    "demo",
    short_help="See it all work on real data, in a folder of its own.",
    examples=["clipperfs demo", "clipperfs demo --place ./tour"],
)
@click.option("--place", type=click.Path(), help="Work in this new folder and keep it.  [default: a temporary one]")
@click.pass_context
def demo(context: click.Context, call: Call, place: str | None) -> None:
    """Train two models of handwritten digits, publish, serve, switch under load, refuse a worse one, and roll back.

    Nothing outside its folder is touched, and everything it starts ends with it. Needs scikit-learn and skops.
    """
    if place is not None and Path(place).exists():
        raise click.UsageError(f"{place} exists; give a folder that does not.")
    from clipperfs.demo import main

    code = main(
        Path(place).absolute() if place is not None else None,
        say=lambda text: call.emit_line({"line": text}, visible(text)),
    )
    context.exit(code)
