"""``permissions``: who may read, publish and activate a model; and setting it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.text import plural, table, visible

if TYPE_CHECKING:
    from clipperfs.permissions.aws import Dialect
    from clipperfs.permissions.verb import Change, Permissions
    from clipperfs.rights import Right

RIGHT = click.Choice(["read", "publish", "activate"])


@command(
    "permissions",
    short_help="Show or set who may read, publish and activate.",
    examples=[
        "clipperfs permissions digits",
        "clipperfs permissions digits --grant publish group:trainers",
        "clipperfs permissions digits --revoke read everyone --dry-run",
        "clipperfs permissions digits --print-policy aws --right publish --principal arn:aws:iam::111122223333:role/ci",
    ],
)
@click.argument("model")
@click.option("--grant", nargs=2, type=(RIGHT, str), metavar="RIGHT WHO", help="Let WHO have RIGHT.")
@click.option(
    "--revoke", nargs=2, type=(RIGHT, str), metavar="RIGHT WHO", help="Take RIGHT from WHO, and what includes it."
)
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
@click.option(
    "--print-policy",
    type=click.Choice(["aws", "ceph"]),
    help="Print a policy for S3 that gives --right, and set nothing.",
)
@click.option("--right", type=RIGHT, default="activate", show_default=True, help="The right of --print-policy.")
@click.option("--principal", metavar="ARN", help="Print a bucket policy for ARN, not one to attach to a user or role.")
def permissions(
    call: Call,
    model: str,
    grant: tuple[Right, str] | None,
    revoke: tuple[Right, str] | None,
    dry_run: bool,
    print_policy: Dialect | None,
    right: Right,
    principal: str | None,
) -> None:
    """Show who may read, publish and activate MODEL, as its storage enforces it; or change that.

    \b
    read      see and download
    publish   bring versions and signatures (publish --no-record, plain copies); includes read
    activate  write records: say that a version exists, which one is active, the policy; includes publish

    A storage cannot tell records apart, so who may write one may write all of them. WHO is user:NAME, group:NAME, a
    group's NAME, or everyone (for read). The folders of a new model are made by the first grant.
    """
    if sum(value is not None for value in (grant, revoke, print_policy)) > 1:
        raise click.UsageError("Give one of --grant, --revoke and --print-policy.")
    if principal is not None and print_policy is None:
        raise click.UsageError("--principal belongs to --print-policy.")
    if dry_run and grant is None and revoke is None:
        raise click.UsageError("--dry-run belongs to --grant or --revoke.")
    registry = call.registry()
    if print_policy is not None:
        document = registry.s3_policy(model, right, principal=principal, dialect=print_policy)
        call.emit(document, lambda: json.dumps(document, indent=2))
        return
    if grant is None and revoke is None:
        report = registry.permissions(model)
        call.emit(report, lambda: _report_text(report))
        return
    if grant is not None:
        changes = registry.grant(model, *grant, dry_run=dry_run)
    else:
        assert revoke is not None
        changes = registry.revoke(model, *revoke, dry_run=dry_run)
        left = registry.held_by(model, revoke[1])
        if not dry_run and left is not None and RIGHT.choices.index(left) >= RIGHT.choices.index(revoke[0]):
            call.say(f"note: {visible(revoke[1])} may still {left}: as the owner, by a group, or because everyone may")
    call.emit(changes, lambda: _changes_text(changes, dry_run=dry_run))


def _report_text(report: Permissions) -> str:
    lines = []
    if report.me is not None:
        lines.append(f"{visible(report.me.who)} (you): {report.me.right or 'none'}")
    if report.holders:
        rows = [(holder.who, *_marks(holder.right)) for holder in report.holders]
        lines += ["", table(("who", *RIGHT.choices), rows)]
    if report.statements:
        lines += ["", "statements of the bucket's policy about this model:"]
        lines += [visible(json.dumps(statement)) for statement in report.statements]
    lines += [f"note: {visible(note)}" for note in report.notes]
    return "\n".join(lines)


def _marks(right: Right | None) -> list[str]:
    reached = -1 if right is None else list(RIGHT.choices).index(right)
    return ["yes" if index <= reached else "-" for index in range(len(RIGHT.choices))]


def _changes_text(changes: list[Change], *, dry_run: bool) -> str:
    if not changes:
        return "it is so already; nothing was changed"
    verb = "would change" if dry_run else "changed"
    rows = [(change.key, change.was, change.now) for change in changes[:20]]
    more = [f"… and {plural(len(changes) - 20, 'more key')}"] if len(changes) > 20 else []
    return "\n".join([f"{verb} {plural(len(changes), 'key')}", table(("key", "was", "now"), rows), *more])
