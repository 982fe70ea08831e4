"""``diff``: what changed from one version to another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.text import plural, size, table, visible

if TYPE_CHECKING:
    from clipperfs.diff import DiffReport

SHOWN_CHARS = 60


@command(
    "diff",
    short_help="Compare two versions.",
    examples=["clipperfs diff digits 1 2", "clipperfs diff digits 1 2 --no-predictions --json"],
)
@click.argument("model")
@click.argument("a")
@click.argument("b")
@click.option("--predictions/--no-predictions", default=True, help="Also load both and compare them on the sample.")
def diff(call: Call, model: str, a: str, b: str, predictions: bool) -> None:
    """Compare versions A and B of MODEL: files, settings, verdicts, and predictions on the sample."""
    report = call.registry().diff(model, a, b, predictions=predictions)
    call.emit(report, lambda: _report_text(report))


def _report_text(report: DiffReport) -> str:
    parts = [f"{visible(report.model)}: {visible(report.a)} → {visible(report.b)}"]
    if report.same_bytes:
        parts.append(f"files: the same {plural(report.unchanged_files, 'file')}, {size(report.size_a_bytes)}")
    else:
        parts.append(
            f"files: {len(report.files)} differ, {report.unchanged_files} the same; "
            f"{size(report.size_a_bytes)} → {size(report.size_b_bytes)}"
        )
        rows = [(file.change, size(file.size_a), size(file.size_b), file.path) for file in report.files]
        parts.append(table(("change", report.a, report.b, "file"), rows))
    if report.settings:
        pairs = [(name, _short(old), _short(new)) for name, (old, new) in sorted(report.settings.items())]
        parts.append(table(("setting", report.a, report.b), pairs))
    else:
        parts.append("settings: the same")
    if report.verdicts:
        rows_by_hook = [(hook, old, new) for hook, (old, new) in report.verdicts.items()]
        parts.append(table(("hook", report.a, report.b), rows_by_hook))
    parts.append(_predictions_text(report))
    return "\n".join(parts)


def _predictions_text(report: DiffReport) -> str:
    if report.predictions_note is not None:
        return f"predictions: not compared: {visible(report.predictions_note)}"
    line = f"predictions: {report.predictions_different} of {report.predictions_compared} differ on the sample"
    if not report.predictions:
        return line
    rows = [(_short(old), _short(new), _short(given)) for given, old, new in report.predictions]
    return f"{line}\n{table((report.a, report.b, 'input'), rows)}"


def _short(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
