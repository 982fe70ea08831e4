"""``hook list`` and ``hook run``: the checks that a version passes before it becomes active."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call
from clipperfs.cli.frame import Group, command
from clipperfs.cli.outcome import verdict_table
from clipperfs.cli.text import table

if TYPE_CHECKING:
    from clipperfs import plugins


@click.group("hook", cls=Group, short_help="List the hooks, or run them on a version.")
def hook() -> None:
    """List the hooks, or run a version's hooks without activating it."""


@command("list", examples=["clipperfs hook list", "clipperfs hook list --json"])
def list_plugins(call: Call) -> None:
    """Show the hooks and the wrappers that are installed here."""
    from clipperfs.hook import ALWAYS
    from clipperfs.plugins import plugin_names, require_plugin

    groups: list[tuple[str, plugins.Group]] = [("hook", "clipperfs.hooks"), ("wrapper", "clipperfs.wrappers")]
    rows = [
        (noun, name, require_plugin(group, name).value, "always runs" if noun == "hook" and name in ALWAYS else None)
        for noun, group in groups
        for name in plugin_names(group)
    ]
    call.emit(
        [{"kind": noun, "name": name, "object": value, "always": note is not None} for noun, name, value, note in rows],
        lambda: table(("kind", "name", "object", "note"), rows),
    )


@command("run", examples=["clipperfs hook run digits 2", "clipperfs hook run digits 2 --json"])
@click.argument("model")
@click.argument("version")
@click.pass_context
def run(context: click.Context, call: Call, model: str, version: str) -> None:
    """Run the hooks of VERSION of MODEL as activate would, and move nothing. Exit 6 when one refuses.

    The report is kept in the registry beside those of activations."""
    verdicts = call.registry().run_hooks(model, version)
    refused = [verdict for verdict in verdicts if verdict.is_refusal]
    call.emit(
        {"model": model, "version": version, "accepted": not refused, "verdicts": verdicts},
        lambda: verdict_table(verdicts),
    )
    if refused:
        call.say(f"{model}/{version} would be refused by {', '.join(verdict.hook for verdict in refused)}")
        context.exit(exit_table.HOOK_REFUSED)


hook.add_command(list_plugins)
hook.add_command(run)
