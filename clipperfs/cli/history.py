"""``history``: every record of a model, newest first."""

from __future__ import annotations

import click

from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.text import table


@command(
    "history",
    short_help="Show who did what, when and why.",
    examples=["clipperfs history digits", "clipperfs history digits --limit 5 --json"],
)
@click.argument("model")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N records.")
def history(call: Call, model: str, limit: int | None) -> None:
    """Show who did what to MODEL, when and why: the newest record first.

    With --json: whole records in an array, with the verdicts that each one rests on.
    """
    records = call.registry().history(model, limit=limit)
    call.emit(
        records,
        lambda: table(
            ("seq", "time", "op", "version", "actor", "reason"),
            [(each.seq, each.time, each.op, each.evidence.version, each.actor, each.reason) for each in records],
        ),
    )
