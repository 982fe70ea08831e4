"""What becomes of an error: a message on stderr (a JSON document under ``--json``) and an exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from typing import Any

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call, plain
from clipperfs.cli.outcome import record_line, verdict_table
from clipperfs.cli.text import visible
from clipperfs.errors import ActivationRefused, ClipperfsError, Conflict


def report(error: Exception, call: Call) -> int:
    """Print ``error`` for whoever called, and return the exit code.

    Guarantees: stdout is left alone.
    """
    if call.debug and not isinstance(error, click.exceptions.Abort):
        click.echo(visible("".join(traceback.format_exception(error)), keep="\n"), err=True)
    if isinstance(error, ClipperfsError):
        _print(call, error.as_document(), _text_of(error, call))
        return exit_table.exit_code(error)
    if isinstance(error, click.exceptions.Abort):
        return exit_table.INTERRUPTED
    if isinstance(error, click.ClickException):
        return _report_usage(error, call)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        _silence_stdout()
        document = {"error": "OSError", "message": "the output cannot be written: no space left", "hint": None}
        _print(call, document, f"Error: {document['message']}")
        return exit_table.FAILED
    document = {
        "error": type(error).__name__,
        "message": f"this is a defect in clipperfs: {error}",
        "hint": "run it again with --debug and report the traceback",
    }
    _print(
        call,
        document,
        f"Error: this is a defect in clipperfs: {type(error).__name__}: {visible(error)}\n  → {document['hint']}",
    )
    return exit_table.FAILED


def _report_usage(error: click.ClickException, call: Call) -> int:
    context = getattr(error, "ctx", None)
    usage = context.get_usage() if context is not None else ""
    message = error.format_message()
    hint = f"{context.command_path} --help" if context is not None else None
    lines = [usage] if usage else []
    lines.append(f"Error: {visible(message, keep=chr(10))}")
    if hint:
        lines.append(f"  → {hint}")
    _print(call, {"error": "UsageError", "message": message, "hint": hint}, "\n".join(lines))
    return error.exit_code if isinstance(error, click.UsageError) else exit_table.FAILED


def _text_of(error: ClipperfsError, call: Call) -> str:
    parts = [f"Error: {visible(error.message, keep=chr(10))}"]
    if isinstance(error, Conflict):
        parts += _both_records(error.fields)
    if isinstance(error, ActivationRefused):
        verdicts = error.fields.get("verdicts") or getattr(error.fields.get("report"), "verdicts", None)
        if verdicts:
            parts.append(verdict_table(verdicts))
    if "right" in error.fields and (place := _registry_url(call)):
        parts.append(f"  registry: {visible(place)}")
    if error.hint:
        parts.append(f"  → {visible(error.hint)}")
    return "\n".join(parts)


def _registry_url(call: Call) -> str | None:
    try:
        return call.settings().registry
    except ClipperfsError:
        return None


def _both_records(fields: dict[str, Any]) -> list[str]:
    """Return what was expected (or wanted) beside what is there, a line each."""
    lines = []
    if fields.get("expected_seq") is not None:
        lines.append(f"  expected: record {visible(fields['expected_seq'])}")
    for role in ("expected", "found", "mine"):
        if role in fields:
            lines.append(f"  {role + ':':10}{record_line(fields[role])}")
    return lines


def _print(call: Call, document: dict[str, Any], text: str) -> None:
    click.echo(json.dumps(plain(document), indent=2) if call.json else text, err=True)


def _silence_stdout() -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
