"""``app``: applications, and the models that answer them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipperfs.cli.activate import reason_option
from clipperfs.cli.call import Call
from clipperfs.cli.frame import Group, command
from clipperfs.cli.outcome import change_line
from clipperfs.cli.text import table, visible
from clipperfs.cli.value import DURATION_US, OUTPUT
from clipperfs.durations import format_duration

if TYPE_CHECKING:
    from clipperfs.documents import AppState

INPUT_TYPES = ("ints", "floats", "doubles", "bytes", "strings")


@click.group("app", cls=Group, short_help="Applications, and the models that answer them.")
def app() -> None:
    """Applications: an input type, a latency objective, a default output, and the model that answers."""


@command(
    "register",
    examples=[
        "clipperfs app register digit-reader --input-type doubles --default-output -1 --slo 100ms --link digits",
    ],
)
@click.argument("name")
@click.option("--input-type", required=True, type=click.Choice(INPUT_TYPES), help="Of what an input is made.")
@click.option(
    "--default-output",
    required=True,
    type=OUTPUT,
    metavar="TEXT",
    help="The answer when there is no prediction in time.",
)
@click.option("--slo", "slo_us", required=True, type=DURATION_US, help="Answer by then, always: 100ms, 2s, 1.5s.")
@click.option("--link", metavar="MODEL", help="The model that answers.")
@click.option(
    "--max-concurrent",
    type=click.IntRange(0, 1_000_000),
    metavar="N",
    help="Queries that each daemon takes in at a time, in equal parts for its frontends; 0: no limit.  "
    "[default: as it was]",
)
@click.option(
    "--max-rate",
    type=click.FloatRange(0, 1e9),
    metavar="N",
    help="Queries a second that each daemon takes in, in equal parts for its frontends; 0: no limit.  "
    "[default: as it was]",
)
@reason_option
def register(
    call: Call,
    name: str,
    input_type: str,
    default_output: str,
    slo_us: int,
    link: str | None,
    max_concurrent: int | None,
    max_rate: float | None,
    reason: str | None,
) -> None:
    """Create the application NAME, or change its settings. The same again changes nothing.

    A query over a limit gets the default output at once. Each frontend of a daemon has its part of a limit, which is
    all that a client on one connection can get, and at least one query at a time.
    """
    outcome = call.registry().app_register(
        name,
        input_type=input_type,
        default_output=default_output,
        slo_us=slo_us,
        link=link,
        max_concurrent=max_concurrent,
        max_rate=max_rate,
        reason=reason,
    )
    done = f"application {name} is registered{f' and linked to model {link}' if link else ''}"
    call.emit(outcome, change_line(done, outcome))


@command("link", examples=["clipperfs app link digit-reader digits"])
@click.argument("name")
@click.argument("model")
@reason_option
def link_model(call: Call, name: str, model: str, reason: str | None) -> None:
    """Let MODEL answer the queries of application NAME. A link to another model is replaced."""
    outcome = call.registry().app_link(name, model, reason=reason)
    done = f"application {name} is linked to model {model}"
    call.emit(outcome, change_line(done, outcome))


@command("unlink", examples=["clipperfs app unlink digit-reader --reason 'being retrained'"])
@click.argument("name")
@reason_option
def unlink_model(call: Call, name: str, reason: str | None) -> None:
    """Let no model answer application NAME: its queries then get the default output."""
    outcome = call.registry().app_unlink(name, reason=reason)
    done = f"application {name} is linked to no model"
    call.emit(outcome, change_line(done, outcome))


@command("show", examples=["clipperfs app show digit-reader", "clipperfs app show digit-reader --json"])
@click.argument("name")
def show(call: Call, name: str) -> None:
    """Show the application NAME."""
    record = call.registry().app_show(name)
    state = record.state

    def text() -> str:
        facts = {
            "application": record.app,
            "input type": state.input_type,
            "latency objective": format_duration(state.slo_us),
            "default output": state.default_output,
            "linked model": ", ".join(link.model for link in state.links) or "-",
            "limits": _limits(state),
            "record": f"{record.seq}, {record.op} by {record.actor} at {record.time}",
        }
        return "\n".join(f"{name:18} {visible(value)}" for name, value in facts.items())

    call.emit(record, text)


def _limits(state: AppState) -> str:
    """Return an application's limits in words."""
    words = []
    if state.max_concurrent is not None:
        words.append(f"{state.max_concurrent} queries at a time")
    if state.max_rate is not None:
        words.append(f"{state.max_rate:g} queries a second")
    return ", ".join(words) or "-"


@command("list", examples=["clipperfs app list", "clipperfs app list --json"])
def list_apps(call: Call) -> None:
    """List the applications."""
    registry = call.registry()
    records = [registry.app_show(name) for name in registry.apps()]
    call.emit(
        [{"app": record.app, "seq": record.seq, **record.state.model_dump(mode="json")} for record in records],
        lambda: table(
            ("application", "input type", "slo", "model", "default output"),
            [
                (
                    record.app,
                    record.state.input_type,
                    format_duration(record.state.slo_us),
                    ",".join(link.model for link in record.state.links),
                    record.state.default_output,
                )
                for record in records
            ],
        ),
    )


@command("delete", examples=["clipperfs app delete digit-reader"])
@click.argument("name")
@reason_option
def delete(call: Call, name: str, reason: str | None) -> None:
    """Delete the application NAME: queries to it get 404. Its history stays."""
    outcome = call.registry().app_delete(name, reason=reason)
    call.emit(outcome, change_line(f"application {name} is deleted", outcome))


for each in (register, link_model, unlink_model, show, list_apps, delete):
    app.add_command(each)
