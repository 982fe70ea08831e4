"""``retire``, ``delete`` and ``gc``: how versions leave."""

from __future__ import annotations

import click

from clipperfs.cli.activate import reason_option
from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.outcome import change_line
from clipperfs.cli.text import plural, size, table, visible
from clipperfs.cli.value import DURATION


@command(
    "retire",
    short_help="Keep a version from being activated.",
    examples=["clipperfs retire digits 1 --reason 'superseded'", "clipperfs retire digits 1 --undo"],
)
@click.argument("model")
@click.argument("version")
@click.option("--undo", is_flag=True, help="Let it be activated again.")
@reason_option
def retire(call: Call, model: str, version: str, undo: bool, reason: str | None) -> None:
    """Keep VERSION of MODEL from being activated. Its files stay."""
    outcome = call.registry().retire(model, version, undo=undo, reason=reason)
    done = f"{model}/{version} is {'no longer retired' if undo else 'retired'}"
    call.emit(outcome, change_line(done, outcome))


@command(
    "delete",
    short_help="Mark a version for deletion, or restore it.",
    examples=["clipperfs delete digits 1", "clipperfs delete digits 1 --restore"],
)
@click.argument("model")
@click.argument("version")
@click.option("--restore", is_flag=True, help="Take the deletion back, while the payload is still there.")
@reason_option
def delete(call: Call, model: str, version: str, restore: bool, reason: str | None) -> None:
    """Mark VERSION of MODEL as deleted. After the policy's grace_s, gc removes its payload; manifest and log stay."""
    outcome = call.registry().delete(model, version, restore=restore, reason=reason)
    done = f"{model}/{version} is {'restored' if restore else 'deleted'}"
    call.emit(outcome, change_line(done, outcome))


@command(
    "gc",
    short_help="Remove what nobody needs any more.",
    examples=["clipperfs gc --dry-run", "clipperfs gc --json", "clipperfs gc --orphans 30d"],
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option(
    "--orphans",
    "orphan_age_s",
    type=DURATION,
    metavar="AGE",
    help="Also remove copies without manifest and record that have not changed for so long (1d or more).",
)
def gc(call: Call, dry_run: bool, orphan_age_s: float | None) -> None:
    """Remove what nobody needs, and show how many bytes there are of what.

    Goes: the payload of deleted versions, when their grace is over and no daemon uses them; what publishers, writers
    and probes left that died a day ago; statuses of daemons that are gone for a day; hints that are a day old.
    Manifests, records and hook reports stay for ever.
    """
    report = call.registry().collect(dry_run=dry_run, orphan_age_s=orphan_age_s)

    def text() -> str:
        verb = "would free" if dry_run else "freed"
        done = "would remove" if dry_run else "removed"
        statuses = [f"the status of daemon {name}" for name in report.statuses]
        lines = [f"{done} {visible(name)}" for name in [*report.purged, *report.stagings, *statuses]]
        lines += [f"kept {visible(what)}: {visible(why)}" for what, why in report.kept]
        if report.totals:
            rows = [
                (size(one.size_bytes), one.count, done if one.is_removed else "kept", one.what)
                for one in sorted(report.totals, key=lambda one: (one.is_removed, one.what))
            ]
            lines += ["", table(("bytes", "count", "fate", "what"), rows), ""]
        lines.append(
            f"{verb} {size(report.freed_bytes)}: {plural(len(report.purged), 'version')}, "
            f"{plural(len(report.stagings), 'leftover')}, {plural(report.hints, 'hint')}"
        )
        return "\n".join(lines)

    call.emit(report, text)
