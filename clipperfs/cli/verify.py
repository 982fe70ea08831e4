"""``verify``: whether the registry's bytes are what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call, plain
from clipperfs.cli.frame import command
from clipperfs.cli.text import plural, size, table
from clipperfs.names import split_reference

if TYPE_CHECKING:
    from clipperfs.verify import VerifyReport


@command(
    "verify",
    short_help="Check every record, manifest and file.",
    examples=["clipperfs verify", "clipperfs verify digits", "clipperfs verify digits/2 --json"],
)
@click.argument("reference", metavar="[MODEL[/VERSION]]", required=False)
@click.pass_context
def verify(context: click.Context, call: Call, reference: str | None) -> None:
    """Read everything again and compare: chains of records, manifests, sizes and digests.

    Without MODEL: the whole registry. Nothing is changed. Exit 5 when something is wrong.
    """
    model, version = split_reference(reference) if reference is not None else (None, None)
    report = call.registry().verify(model, version)
    call.emit({"ok": report.ok, **plain(report)}, lambda: _report_text(report))
    if not report.ok:
        context.exit(exit_table.VERIFICATION_FAILED)


def _report_text(report: VerifyReport) -> str:
    read = (
        f"read {plural(report.records, 'record')}, {plural(report.versions, 'version')}, "
        f"{plural(report.files, 'file')}, {size(report.size_bytes)}"
    )
    if not report.findings:
        return f"{read}: all as it should be"
    rows = [(finding.severity, finding.subject, finding.message) for finding in report.findings]
    return f"{table(('severity', 'subject', 'finding'), rows)}\n{read}: {'ok' if report.ok else 'NOT OK'}"
