"""``doctor``: what is safe here, what is not, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call
from clipperfs.cli.daemon import state_dir_option
from clipperfs.cli.frame import command
from clipperfs.cli.text import table, visible

if TYPE_CHECKING:
    from clipperfs.doctor import Diagnosis, Finding
    from clipperfs.initialise import Effort

EXITS: dict[str, int] = {
    "ok": exit_table.OK,
    "note": exit_table.OK,
    "warning": exit_table.DEGRADED,
    "unsafe": exit_table.VERIFICATION_FAILED,
}


@command(
    "doctor",
    short_help="Say what is safe here, what is not, and why.",
    examples=["clipperfs doctor", "clipperfs doctor /mnt/models --probe full", "clipperfs doctor --json"],
)
@click.argument("url", required=False)
@click.option(
    "--probe",
    type=click.Choice(["full", "quick", "skip"]),
    help="How hard to race for names. Default: full where it was never tried, and skip on local disks.",
)
@state_dir_option
@click.pass_context
def doctor(context: click.Context, call: Call, url: str | None, probe: Effort | None, state_dir: str | None) -> None:
    """Look at the registry, its filesystem and this host: what is safe, what is not, and why.

    It tries the right to write by files that it deletes again. With --probe, processes race for fresh names, and the
    report stays in the registry. Exit 8 when there are warnings, 5 when history is not safe.
    """
    from clipperfs.daemon_files import default_state_dir
    from clipperfs.doctor import examine

    registry = call.open_registry(url or call.registry_url())
    folder = state_dir or call.settings().state_dir
    place = Path(folder) if folder else default_state_dir(registry.url)
    found = examine(registry.workspace, probe, state_dir=place)
    document = {
        "url": found.url,
        "store_class": found.store_class,
        "level": found.level,
        "findings": found.findings,
        "probe": found.probe,
    }
    call.emit(document, lambda: _text(found))
    context.exit(EXITS[found.level])


def _text(found: Diagnosis) -> str:
    rows = [(finding.level, finding.subject, finding.message) for finding in found.findings]
    steps = [_step(finding) for finding in found.findings if finding.next_step and finding.level != "ok"]
    verdict = {
        "ok": "all well",
        "note": "all well",
        "warning": "it works, but see the warnings",
        "unsafe": "NOT SAFE: history could be lost here",
    }[found.level]
    return "\n".join([table(("level", "what", "finding"), rows), *(["", *steps] if steps else []), "", verdict])


def _step(finding: Finding) -> str:
    return f"{finding.subject}: {visible(finding.next_step)}"
