"""``activate`` and ``rollback``: which version answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipperfs.cli.call import Call, plain
from clipperfs.cli.frame import command
from clipperfs.cli.outcome import activation_text, verdict_table
from clipperfs.cli.text import visible
from clipperfs.cli.value import DURATION, REASON

if TYPE_CHECKING:
    from clipperfs.activate import Outcome
    from clipperfs.registry import Registry

expect_seq_option = click.option(
    "--expect-seq", type=click.IntRange(min=0), metavar="N", help="Fail (exit 4) unless the newest record is N."
)
reason_option = click.option("--reason", type=REASON, metavar="TEXT", help="Why; kept in the record for ever.")
wait_option = click.option(
    "--wait", type=click.IntRange(min=1), metavar="N", help="Wait until N daemons serve the version."
)
timeout_option = click.option(
    "--timeout", "timeout_s", type=DURATION, default="60s", show_default=True, help="How long --wait waits (exit 7)."
)


@command(
    "activate",
    short_help="Run the hooks and make a version the active one.",
    examples=[
        "clipperfs activate digits 2 --reason 'passed the review'",
        "clipperfs activate digits 2 --expect-seq 7",
        "clipperfs activate digits 2 --wait 3 --timeout 2m",
        "clipperfs activate digits 2 --dry-run",
    ],
)
@click.argument("model")
@click.argument("version")
@expect_seq_option
@reason_option
@wait_option
@timeout_option
@click.option("--dry-run", is_flag=True, help="Run the hooks and say what would happen; write nothing.")
def activate(
    call: Call,
    model: str,
    version: str,
    expect_seq: int | None,
    reason: str | None,
    wait: int | None,
    timeout_s: float,
    dry_run: bool,
) -> None:
    """Run the hooks on VERSION of MODEL and, when all pass, make it the active version.

    Running daemons switch without failing a request. When a hook refuses, nothing changes (exit 6) and every verdict is
    shown. When somebody else was first, both records are shown (exit 4).

    With --wait: ends when N daemons serve the version; names those that do not after the time-out (exit 7), or as soon
    as daemons refused it and no other is on its way (exit 8). The record stands in both cases.
    """
    if dry_run and wait:
        raise click.UsageError("--wait makes no sense with --dry-run: nothing changes.")
    registry = call.registry()
    outcome = registry.activate(model, version, expect_seq=expect_seq, reason=reason, dry_run=dry_run)
    _finish(call, registry, model, outcome, wait, timeout_s, dry_run=dry_run)


@command(
    "rollback",
    short_help="Go back to the version that was active before.",
    examples=["clipperfs rollback digits --reason 'wrong on 7s'", "clipperfs rollback digits --to 1 --wait 2"],
)
@click.argument("model")
@click.option("--to", metavar="VERSION", help="Back to this version.  [default: the previous active one]")
@click.option("--all-hooks", is_flag=True, help="Run every hook, not only the cheap ones (integrity, loadable).")
@expect_seq_option
@reason_option
@wait_option
@timeout_option
def rollback(
    call: Call,
    model: str,
    to: str | None,
    all_hooks: bool,
    expect_seq: int | None,
    reason: str | None,
    wait: int | None,
    timeout_s: float,
) -> None:
    """Make the previous active version of MODEL active again: one more record, and only the cheap hooks."""
    registry = call.registry()
    outcome = registry.rollback(model, to=to, expect_seq=expect_seq, reason=reason, all_hooks=all_hooks)
    _finish(call, registry, model, outcome, wait, timeout_s)


def _finish(
    call: Call,
    registry: Registry,
    model: str,
    outcome: Outcome,
    wait: int | None,
    timeout_s: float,
    *,
    dry_run: bool = False,
) -> None:
    document = plain(outcome)
    if outcome.verdicts:
        call.say(verdict_table(outcome.verdicts))
    if wait and outcome.record is not None:
        from clipperfs.cli.wait import wait_for_daemons

        document["serving"] = wait_for_daemons(
            registry.store,
            outcome.record,
            count=wait,
            timeout_s=timeout_s,
            say=lambda line: call.say(visible(line)),
        )
    call.emit(document, lambda: activation_text(model, outcome, dry_run=dry_run))
