"""``alias`` and ``pin``: other names for versions, and versions that stay loaded."""

from __future__ import annotations

import click

from clipperfs.cli.activate import expect_seq_option, reason_option
from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.outcome import change_line


@command(
    "alias",
    short_help="Give a version another name.",
    examples=["clipperfs alias digits stable 2", "clipperfs alias digits stable --remove"],
)
@click.argument("model")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--remove", is_flag=True, help="Remove the alias.")
@expect_seq_option
@reason_option
def alias(
    call: Call,
    model: str,
    name: str,
    version: str | None,
    remove: bool,
    expect_seq: int | None,
    reason: str | None,
) -> None:
    """Let NAME stand for VERSION of MODEL. Queries may then ask for the version by that name."""
    if remove == (version is not None):
        raise click.UsageError("Give either a VERSION or --remove.")
    outcome = call.registry().alias(model, name, version, expect_seq=expect_seq, reason=reason)
    done = f"{model}: alias {name} is removed" if remove else f"{model}: alias {name} is version {version}"
    call.emit(outcome, change_line(done, outcome))


@command(
    "pin",
    short_help="Keep a version loaded beside the active one.",
    examples=["clipperfs pin digits 1 --reason 'the audit asks for it'", "clipperfs pin digits 1 --remove"],
)
@click.argument("model")
@click.argument("version")
@click.option("--remove", is_flag=True, help="Let daemons unload it again.")
@reason_option
def pin(call: Call, model: str, version: str, remove: bool, reason: str | None) -> None:
    """Make daemons keep VERSION of MODEL loaded beside the active one, so that queries may ask for it."""
    outcome = call.registry().pin(model, version, remove=remove, reason=reason)
    done = f"{model}: version {version} is {'no longer pinned' if remove else 'pinned'}"
    call.emit(outcome, change_line(done, outcome))
