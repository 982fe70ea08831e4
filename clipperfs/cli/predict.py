"""``predict``: one query to a running daemon."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.text import visible
from clipperfs.cli.value import DURATION


@command(
    "predict",
    short_help="Ask an application for a prediction.",
    examples=[
        "clipperfs predict digit-reader '[0, 0.5, 1]'",
        "clipperfs predict greeter '\"hello\"' --version 2",
        "clipperfs predict digit-reader @rows.json --batch --json",
        "clipperfs predict animals @cat.png",
    ],
)
@click.argument("app")
@click.argument("input", metavar="INPUT")
@click.option("--raw", is_flag=True, help="INPUT is @FILE or -; its bytes are the input, whatever they are.")
@click.option("--batch", is_flag=True, help="INPUT is an array of inputs; print one output a line.")
@click.option("--version", metavar="VERSION", help="Ask this version or alias instead of the active one.")
@click.option("--key", metavar="TEXT", help="Whom it is for: under a rollout, equal keys meet the same version.")
@click.option(
    "--url",
    metavar="URL",
    help="The daemon's address.  [default: the daemon of the registry, or port 1337 on this host]",
)
@click.option("--port", type=click.IntRange(1, 65535), help="The daemon's port on this host.")
@click.option(
    "--timeout", "timeout_s", type=DURATION, default="60s", show_default=True, help="Give up after this (exit 7)."
)
def predict(
    call: Call,
    app: str,
    input: str,  # noqa: A002
    raw: bool,
    batch: bool,
    version: str | None,
    key: str | None,
    url: str | None,
    port: int | None,
    timeout_s: float,
) -> None:
    """Ask application APP for a prediction and print its output.

    INPUT is JSON, @FILE for a file that holds JSON, or - for standard input. A file that is no text, such as an image,
    is sent as it is, to applications of input type bytes. A default output is printed like any other; stderr then says
    why. With --json: the whole reply.
    """
    if raw and batch:
        raise click.UsageError("--raw sends one input; give it without --batch.")
    if url and port:
        raise click.UsageError("Give either --url or --port.")
    from clipperfs.client import Client

    value = read_input(input, raw=raw)
    if batch and not isinstance(value, list):
        raise click.UsageError("With --batch, INPUT is a JSON array of inputs.")
    with Client(daemon_address(call, url, port), timeout_s=timeout_s) as client:
        if batch:
            answers = client.predict(app, batch=value, version=version, key=key)
            call.emit({"batch_predictions": answers}, lambda: "\n".join(_shown(each.output) for each in answers))
        else:
            answers = [client.predict(app, value, version=version, key=key)]
            call.emit(answers[0], lambda: _shown(answers[0].output))
    for why in dict.fromkeys(each.default_explanation for each in answers if each.default):
        count = sum(each.default and each.default_explanation == why for each in answers)
        which = "this is the default output" if not batch else f"{count} of {len(answers)} are the default output"
        call.say(f"{which}: {visible(why or 'no reason was given')}")


def read_input(text: str, *, raw: bool = False) -> Any:
    """Return the JSON that INPUT stands for, or the bytes of a file that is no text. Raises click.UsageError.

    Args:
        text: INPUT.
        raw: the bytes are wanted, whether or not they are text.
    """
    source: str | bytes = text
    try:
        if text == "-":
            source = _standard_input()
        elif text.startswith("@"):
            source = Path(text[1:]).read_bytes()
        elif raw:
            raise click.UsageError("With --raw, INPUT is @FILE, or - for standard input.")
    except (OSError, ValueError) as error:
        raise click.UsageError(f"INPUT {text}: cannot be read: {error}") from error
    if isinstance(source, bytes):
        if raw:
            return source
        try:
            source = source.decode()
        except UnicodeDecodeError:
            return source
    try:
        value = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"INPUT is not JSON: {error}.{_advice(text)}") from error
    if value is None:
        raise click.UsageError("INPUT is null; an input is a list of numbers or a text.")
    return value


def _standard_input() -> bytes:
    if sys.stdin is None:
        return b""
    buffer = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read().encode() if buffer is None else bytes(buffer.read())


def _advice(text: str) -> str:
    """Return what may have been meant by an INPUT that is no JSON."""
    if text == "-" or text.startswith("@"):
        return " Its bytes are sent as they are with --raw."
    with contextlib.suppress(OSError):  # too long for a name
        if Path(text).is_file():
            return f" The file of this name is @{text}."
    return f" A text is quoted twice: '{json.dumps(text)}'."


def daemon_address(call: Call, url: str | None, port: int | None) -> str:
    """Return the daemon's address: as given, as set, or that of the daemon which serves the registry on this host."""
    if url:
        return url
    settings = call.settings(port=port)
    if settings.url and port is None:
        return settings.url
    host, number = settings.host, settings.port
    if "port" not in settings.model_fields_set and settings.registry:
        from clipperfs.daemon_files import default_state_dir, running_daemon

        running = running_daemon(settings.state_dir or default_state_dir(settings.registry))
        if running is not None:
            host, number = running.host, running.port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{number}"


def _shown(output: Any) -> str:
    return visible(output) if isinstance(output, str) else json.dumps(output)
