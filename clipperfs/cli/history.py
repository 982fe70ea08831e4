"""``history``: a model's records, the newest first, or its state at a moment; ``export``: every record there is."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

import click

from clipperfs.cli.call import Call, plain
from clipperfs.cli.frame import command
from clipperfs.cli.outcome import rollout_text
from clipperfs.cli.text import table, visible

if TYPE_CHECKING:
    from clipperfs.documents import ModelRecord


OPS = (
    *("publish", "adopt", "activate", "rollback", "rollout", "promote", "abort", "alias", "pin", "policy"),
    *("retire", "delete", "restore", "purge", "purged"),
)
"""What records of a model may say that they do. Source: ``registry_layout.md`` §7.4."""


@command(
    "history",
    short_help="Show who did what, when and why.",
    examples=[
        "clipperfs history digits",
        "clipperfs history digits --limit 5 --json",
        "clipperfs history digits --op activate --op rollback --since 7d",
        "clipperfs history digits --at 2026-11-20T12:00:00Z",
    ],
)
@click.argument("model")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N records.")
@click.option("--op", "ops", multiple=True, metavar="OP", help="Only these operations, such as activate.")
@click.option("--actor", metavar="TEXT", help="Only records of actors whose name holds TEXT.")
@click.option("--version", metavar="VERSION", help="Only records about VERSION.")
@click.option("--since", metavar="TIME", help="Only records of TIME or later.")
@click.option("--until", metavar="TIME", help="Only records of TIME or earlier.")
@click.option("--at", metavar="TIME", help="Instead: what was active at TIME, and the state then.")
def history(
    call: Call,
    model: str,
    limit: int | None,
    ops: tuple[str, ...],
    actor: str | None,
    version: str | None,
    since: str | None,
    until: str | None,
    at: str | None,
) -> None:
    """Show who did what to MODEL, when and why: the newest record first.

    With --json: whole records in an array, with the verdicts that each one rests on. TIME is 2026-11-20 (its first
    moment, UTC), 2026-11-20T12:00:00Z, or an age such as 90m or 7d. Times are what the writers' clocks said; order is
    that of the numbers. An actor is what the writer claimed, unless the record is signed by a key that is known here.
    """
    from clipperfs.audit import Filter, parse_moment

    if at is not None:
        if ops or any(value is not None for value in (limit, actor, version, since, until)):
            raise click.UsageError("--at shows one state: it goes with no other option of history.")
        record = call.registry().record_at(model, parse_moment(at))
        call.emit(record, lambda: _state_text(model, at, record))
        return
    where = Filter(
        ops=frozenset(ops),
        actor=actor,
        since=parse_moment(since) if since is not None else None,
        until=parse_moment(until) if until is not None else None,
        version=version,
    )
    for op in sorted(set(ops) - set(OPS)):  # a newer release may write others, so it is no error
        call.say(f"note: this release writes no operation {op!r}; it writes {', '.join(OPS)}")
    registry = call.registry()
    found = registry.attributed(model, islice(registry.records(model, where=where), limit))
    if call.json:
        call.emit_array({**plain(each), "attribution": author} for each, author in found)
        return
    rows = [
        (each.seq, each.time, _op_text(each), each.evidence.version, f"{each.actor} ({author})", each.reason)
        for each, author in found
    ]
    click.echo(table(("seq", "time", "op", "version", "actor", "reason"), rows))


@command(
    "export",
    short_help="Print every record of the registry as JSON lines.",
    examples=["clipperfs export", "clipperfs export --registry /srv/models"],
)
def export(call: Call) -> None:
    """Print every record of every model and application, one JSON object a line: kind, name, seq, sha256, record.

    Each log begins with its first record, and its chain is verified on the way: exit 5 at the first break. The sha256
    is that of the record's bytes as they are stored, which the next record names.
    """
    for subject, head in call.registry().export():
        line = {
            "kind": subject.kind,
            "name": subject.name,
            "seq": head.seq,
            "sha256": head.digest,
            "record": plain(head.record),
        }
        click.echo(json.dumps(line, allow_nan=False, separators=(",", ":")))


def _op_text(record: ModelRecord) -> str:
    rollout = record.state.rollout
    if record.op != "rollout" or rollout is None:
        return record.op
    return f"{record.op} ({rollout.kind} {rollout.percent:g} %)"


def _state_text(model: str, at: str, record: ModelRecord | None) -> str:
    if record is None:
        return f"{model} had no record yet at {visible(at)}"
    state = record.state
    facts = {
        "record": f"{record.seq}, {record.op} by {record.actor} at {record.time}",
        "active": state.active.version if state.active else "-",
        "previous": state.previous.version if state.previous else "-",
        "rollout": rollout_text(state),
        "aliases": ", ".join(f"{name} {pointer.version}" for name, pointer in sorted(state.aliases.items())) or "-",
        "pins": ", ".join(pointer.version for pointer in state.pins) or "-",
        "retired": ", ".join(f"{name} ({mark.stage})" for name, mark in sorted(state.retired.items())) or "-",
    }
    return "\n".join(f"{name:9} {visible(value)}" for name, value in facts.items())
