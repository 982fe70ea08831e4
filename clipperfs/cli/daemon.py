"""``start``, ``stop``, ``watch`` and ``reload``: the daemon of a registry on this host."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call
from clipperfs.cli.daemon_options import KEYWORDS, daemon_options, given_settings, keywords
from clipperfs.cli.frame import command
from clipperfs.cli.text import visible
from clipperfs.cli.value import DURATION

if TYPE_CHECKING:
    from clipperfs.daemon import Daemon

wait_option = click.option(
    "--wait", "wait_s", type=DURATION, default="60s", show_default=True, help="Time to get ready (exit 7)."
)
state_dir_option = click.option(
    "--state-dir", type=click.Path(), help="The daemon's state folder.  [default: made of the registry]"
)


def open_daemon(call: Call, **flags: Any) -> Daemon:
    """Return the handle of the daemon that the settings describe; nothing is started."""
    from clipperfs.daemon import Daemon

    url, settings = call.registry_url(), call.settings(**flags)
    options = keywords(settings, [*KEYWORDS, "trusted_keys"])
    if settings.actor is not None:
        options["actor"] = settings.actor
    return Daemon(url, state_dir=settings.state_dir, **options)


def say_started(call: Call, daemon: Daemon, word: dict[str, Any]) -> None:
    """Say that a daemon is ready, and what it could not load."""
    for failure in word.get("failed") or []:
        call.say(f"could not be loaded: {facts(failure)}")
    document = {"registry": daemon.registry, "state_dir": str(daemon.state_dir), **word}
    call.emit(document, lambda: f"serving {daemon.registry} on port {word.get('port')} (pid {word.get('pid')})")


@command(
    "start",
    short_help="Start the daemon that serves the registry.",
    examples=[
        "clipperfs start",
        "clipperfs start --port 8080 --frontends auto --model digits --model fraud-eu",
        "clipperfs start --foreground",
    ],
)
@daemon_options(with_defaults=True)
@state_dir_option
@wait_option
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to stderr: for systemd and the like.")
def start(call: Call, state_dir: str | None, wait_s: float, foreground: bool, **options: Any) -> None:
    """Start the daemon that serves the registry from this host, and return when it is ready.

    Ready: it listens, and every active version is loaded or has failed. Failures are named on stderr; the daemon then
    runs all the same (see: clipperfs status).
    """
    daemon = open_daemon(call, state_dir=state_dir, **given_settings(options))
    if foreground:
        daemon.run()
    say_started(call, daemon, daemon.start(wait_s, progress=lambda step: call.say(facts(step))))


@command("stop", short_help="End the daemon.", examples=["clipperfs stop", "clipperfs stop --drain 5s"])
@click.option("--drain", metavar="DURATION", help="Finish what has begun for at most this long.  [default: 30s]")
@state_dir_option
def stop(call: Call, drain: str | None, state_dir: str | None) -> None:
    """End the daemon: it takes no new queries, finishes those it has, and stops its replicas. None running is fine."""
    daemon = open_daemon(call, drain=drain, state_dir=state_dir)
    stopped = daemon.stop()
    call.emit({"stopped": stopped}, "stopped" if stopped else "no daemon was running")


@command(
    "watch",
    short_help="Follow the registry and show what happens.",
    examples=["clipperfs watch", "clipperfs watch --json"],
)
@state_dir_option
def watch(call: Call, state_dir: str | None) -> None:
    """Make the daemon follow the registry, and show what happens until Ctrl-C. The daemon goes on following.

    With --json: one JSON object a line.
    """
    for event in open_daemon(call, state_dir=state_dir).watch():
        call.emit_line(event, facts(event))


@command(
    "reload",
    short_help="Read the registry now and show what changed.",
    examples=["clipperfs reload", "clipperfs reload digits --timeout 2m"],
)
@click.argument("model", required=False)
@click.option("--timeout", "timeout_s", type=DURATION, default="10m", show_default=True, help="Give up after (exit 7).")
@state_dir_option
@click.pass_context
def reload(context: click.Context, call: Call, model: str | None, timeout_s: float, state_dir: str | None) -> None:
    """Have the daemon read the registry now, wait until it has loaded what it found, and show what changed.

    A version that failed before gets another try. Exit 1 when a version failed: what answered before still answers.
    """
    report = open_daemon(call, state_dir=state_dir).reload(model, wait_s=timeout_s)

    def text() -> str:
        lines = [facts(change) for change in report.get("changes") or []]
        lines += [f"FAILED {facts(failure)}" for failure in report.get("failed") or []]
        return "\n".join(lines or ["nothing changed"])

    call.emit(report, text)
    if report.get("failed"):
        context.exit(exit_table.FAILED)


def facts(thing: Any) -> str:
    """Return something that the daemon tells as ``key=value`` words, the time and the name of the event first."""
    if not isinstance(thing, dict):
        return visible(thing)
    words = [visible(thing[key]) for key in ("time", "event", "state") if key in thing]
    for key, value in thing.items():
        if key in ("time", "event", "state") or value is None:
            continue
        text = visible(value if isinstance(value, str) else json.dumps(value))
        words.append(f"{key}='{text}'" if " " in text else f"{key}={text}")
    return " ".join(words)
