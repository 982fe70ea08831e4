"""``list`` and ``show``: what the registry holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call, plain
from clipperfs.cli.frame import command
from clipperfs.cli.outcome import record_line, rollout_text
from clipperfs.cli.text import Columns, plural, short, size, table, visible
from clipperfs.errors import NotFound, StoredDataError
from clipperfs.names import split_reference

if TYPE_CHECKING:
    from clipperfs.registry import Registry
    from clipperfs.view import ModelSummary, ModelView, VersionView


LIST_HEADING = ("model", "active", "previous", "versions", "newest record")
STATES_HEADING = ("model", "active", "previous", "versions", "incoming or broken")
NO_MODELS = "no models yet; publish one with: clipperfs publish MODEL VERSION PATH"
ROWS_AT_ONCE = 200
"""So many models are shown at once: a registry of thousands need not be read before the first of them is seen."""

NOT_SAID = "(not said; taken over from the version that is active before it)"


@command(
    "list",
    short_help="List the models.",
    examples=[
        "clipperfs list",
        "clipperfs list 'fraud-*' --limit 20",
        "clipperfs list --states",
        "clipperfs list --json",
    ],
)
@click.argument("pattern", required=False)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N models.")
@click.option("--states", is_flag=True, help="Look into each version too: which are incoming, which broken. Slower.")
@click.pass_context
def list_models(context: click.Context, call: Call, pattern: str | None, limit: int | None, states: bool) -> None:
    """List the models: which version is active, which was before, how many are there, and the newest record.

    PATTERN selects models by name: * stands for anything, ? for one character. With --json: a JSON line for each model.
    A model whose records are damaged is shown as such, beside the others (exit 5).
    """
    registry = call.registry()
    names = registry.models(pattern)[:limit]
    rows = _rows(registry, names, states=states)
    is_damaged = is_any = False
    columns = Columns(STATES_HEADING if states else LIST_HEADING, first=max(map(len, names), default=0))
    for chunk in _chunks(rows):
        is_any = True
        is_damaged = is_damaged or any("error" in row for row in chunk)
        if call.json:
            for row in chunk:
                call.emit_line(row, "")
        else:
            click.echo(columns.lines([_cells(row, states=states) for row in chunk]))
    if not is_any and not call.json:
        click.echo("no model matches" if pattern else NO_MODELS)
    if is_damaged:
        context.exit(exit_table.VERIFICATION_FAILED)


def _rows(registry: Registry, names: list[str], *, states: bool) -> Iterator[dict[str, Any]]:
    for name in names:
        try:
            summary = registry.summary(name)
            row = _summary(summary)
            if states and summary.versions:
                row |= _states(registry.show(name))
            yield row
        except StoredDataError as error:
            yield {"model": name, "error": error.as_document()}
        except NotFound:
            continue  # an empty folder, or one that went away meanwhile


def _summary(summary: ModelSummary) -> dict[str, Any]:
    record = summary.record
    state = record.state if record is not None else None
    return {
        "model": summary.model,
        "active": state.active.version if state and state.active else None,
        "previous": state.previous.version if state and state.previous else None,
        "seq": record.seq if record is not None else 0,
        "op": record.op if record is not None else None,
        "time": record.time if record is not None else None,
        "actor": record.actor if record is not None else None,
        "versions": list(summary.versions),
    }


def _states(view: ModelView) -> dict[str, Any]:
    return {
        state: [version.version for version in view.versions if version.state == state]
        for state in ("complete", "incoming", "broken", "purged")
    }


def _cells(row: dict[str, Any], *, states: bool) -> tuple[Any, ...]:
    if "error" in row:
        return (row["model"], None, None, None, f"DAMAGED: {row['error']['message']}")
    last = f"{row['seq']} {row['op']} {row['time']}" if row["seq"] else None
    if states:
        notes = [f"{state}: {', '.join(row[state])}" for state in ("incoming", "broken") if row.get(state)]
        last = "; ".join(notes) or None
    return (row["model"], row["active"], row["previous"], len(row["versions"]), last)


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Gather rows for as long as a person does not mind waiting."""
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        yield chunk


@command(
    "show",
    short_help="Show a model or a version.",
    examples=["clipperfs show digits", "clipperfs show digits/3", "clipperfs show digits --json"],
)
@click.argument("reference", metavar="MODEL[/VERSION]")
def show(call: Call, reference: str) -> None:
    """Show a model, or one version of it; of an incoming version also what has not arrived yet."""
    model, version = split_reference(reference)
    registry = call.registry()
    if version is None:
        view = registry.show(model)
        author = registry.attributions(model, [view.record])[view.record.seq] if view.record is not None else ""
        call.emit({**plain(view), "attribution": author or None}, lambda: _model_text(view, author))
    else:
        one = registry.show_version(model, version)
        signers = registry.signatures(model, version) if one.state == "complete" else []
        document = {"model": model, **plain(one), "signatures": plain(signers)}
        call.emit(document, lambda: _version_text(model, one, [signer.word for signer in signers]))


def _model_text(view: ModelView, author: str) -> str:
    facts: dict[str, Any] = {"model": view.model}
    if view.record is not None:
        state = view.record.state
        facts["active"] = state.active.version if state.active else "-"
        facts["previous"] = state.previous.version if state.previous else "-"
        facts["rollout"] = rollout_text(state)
        facts["aliases"] = ", ".join(f"{name}={to.version}" for name, to in sorted(state.aliases.items())) or "-"
        facts["pinned"] = ", ".join(pin.version for pin in state.pins) or "-"
        changed = state.policy.model_dump(mode="json", exclude_defaults=True)
        facts["policy"] = ", ".join(f"{key}={value}" for key, value in changed.items()) or "default"
        facts["newest"] = f"{record_line(view.record)} ({author})"
    else:
        facts["newest"] = "no record yet: nothing has been published or adopted"
    lines = [f"{name:9} {visible(value)}" for name, value in facts.items()]
    rows = [
        (each.version, each.state, size(each.size_bytes), short(each.manifest_digest), _role(each), _missing(each))
        for each in view.versions
    ]
    if rows:
        lines += ["", table(("version", "state", "size", "manifest", "role", "missing"), rows)]
    lines += [f"ignored: {visible(name)}" for name in view.ignored]
    return "\n".join(lines)


def _version_text(model: str, view: VersionView, signers: list[str]) -> str:
    facts: dict[str, Any] = {
        "version": f"{model}/{view.version}",
        "state": view.state,
        "role": _role(view) or "-",
        "size": size(view.size_bytes),
        "manifest": view.manifest_digest or "-",
    }
    if view.manifest is not None:
        settings = view.manifest.settings
        facts["created"] = f"{view.manifest.created} by {view.manifest.created_by}"
        facts["wrapper"] = settings.wrapper.kind if settings.wrapper else NOT_SAID
        facts["inputs"] = settings.input_type or NOT_SAID
        facts["hooks"] = ", ".join(hook.name for hook in settings.hooks or []) or "-"
        facts["signed"] = f"by {', '.join(signers)}" if signers else "by nobody"
        if settings.description:
            facts["about"] = settings.description
    lines = [f"{name:9} {visible(value)}" for name, value in facts.items()]
    lines += [f"missing   {visible(what)}" for what in view.missing]
    lines += [f"wrong     {visible(what)}" for what in view.wrong]
    lines += [f"extra     {visible(what)} (not in the manifest: never served)" for what in view.extra]
    if view.manifest is not None and view.manifest.files:
        rows = [(short(file.sha256), size(file.size), file.path) for file in view.manifest.files]
        lines += ["", table(("sha256", "size", "file"), rows)]
    return "\n".join(lines)


def _role(view: VersionView) -> str:
    roles = ["active"] if view.is_active else []
    roles += ["previous"] if view.is_previous else []
    roles += ["pinned"] if view.is_pinned else []
    roles += [view.rollout] if view.rollout else []
    roles += [f"alias {name}" for name in view.aliases]
    roles += [view.retired] if view.retired else []
    return ", ".join(roles)


def _missing(view: VersionView) -> str:
    shown = [*view.missing[:3], *view.wrong[:3]]
    more = len(view.missing) + len(view.wrong) - len(shown)
    return ", ".join(shown) + (f" and {plural(more, 'more file')}" if more > 0 else "")
