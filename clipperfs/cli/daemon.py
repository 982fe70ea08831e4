"""``start``, ``stop``, ``watch`` and ``reload``: the daemon of a registry on this host."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call, trusted_keys
from clipperfs.cli.frame import command
from clipperfs.cli.text import visible
from clipperfs.cli.value import DURATION

if TYPE_CHECKING:
    from clipperfs.daemon import Daemon

state_dir_option = click.option(
    "--state-dir", type=click.Path(), help="The daemon's state folder.  [default: made of the registry]"
)


def open_daemon(call: Call, **flags: Any) -> Daemon:
    """Return the handle of the daemon that the settings describe; nothing is started."""
    from clipperfs.daemon import Daemon

    url, settings = call.registry_url(), call.settings(**flags)
    options: dict[str, Any] = {} if settings.actor is None else {"actor": settings.actor}
    if (keys := trusted_keys(settings)) is not None:
        options["trusted_keys"] = keys
    return Daemon(
        url,
        host=settings.host,
        port=settings.port,
        admin_port=settings.admin_port,
        frontends=settings.frontends,
        state_dir=settings.state_dir,
        cache_dir=settings.cache_dir,
        cache_limit_bytes=int(settings.cache_limit),
        prediction_cache_bytes=int(settings.prediction_cache),
        max_body_bytes=int(settings.max_body),
        max_connections=settings.max_connections,
        slow_s=settings.slow,
        models=settings.models,
        event_queue=settings.event_queue,
        watch=settings.watch,
        drain_s=settings.drain,
        **options,
    )


@command(
    "start",
    short_help="Start the daemon that serves the registry.",
    examples=[
        "clipperfs start",
        "clipperfs start --port 8080 --frontends auto --model digits --model fraud-eu",
        "clipperfs start --foreground",
    ],
)
@click.option("--port", type=click.IntRange(0, 65535), help="Port for queries; 0: any free one.  [default: 1337]")
@click.option("--admin-port", type=click.IntRange(0, 65535), help="Loopback port of the status pages.  [default: 1338]")
@click.option("--host", metavar="ADDRESS", help="Where queries are answered.  [default: 127.0.0.1]")
@click.option("--frontends", metavar="N|auto", help="Frontend processes; auto: a processor each but one.  [default: 1]")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Serve only this model; may be repeated.")
@click.option("--cache-limit", metavar="SIZE", help="What the local cache may hold, unused.  [default: 20GB]")
@click.option(
    "--prediction-cache", metavar="SIZE", help="What each frontend's cache may hold; 0: none.  [default: 64MiB]"
)
@click.option("--max-body", metavar="SIZE", help="The largest body of a query.  [default: 16MiB]")
@click.option("--max-connections", metavar="N", help="Connections that each frontend holds.  [default: 4096]")
@click.option("--slow", metavar="DURATION", help="Log queries that take longer.  [default: those that miss their SLO]")
@click.option("--event-queue", metavar="URL", help="An SQS queue of this daemon's own that tells of the bucket.")
@click.option(
    "--trusted-keys",
    "trusted_keys_file",
    type=click.Path(),
    help="Load only what a publisher in this file has signed.  [CLIPPERFS_TRUSTED_KEYS]",
)
@click.option("--no-watch", is_flag=True, help="Do not follow the registry until 'clipperfs watch' or a reload.")
@state_dir_option
@click.option("--wait", "wait_s", type=DURATION, default="60s", show_default=True, help="Time to get ready (exit 7).")
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to stderr: for systemd and the like.")
def start(
    call: Call,
    port: int | None,
    admin_port: int | None,
    host: str | None,
    frontends: str | None,
    models: tuple[str, ...],
    cache_limit: str | None,
    prediction_cache: str | None,
    max_body: str | None,
    max_connections: str | None,
    slow: str | None,
    event_queue: str | None,
    trusted_keys_file: str | None,
    no_watch: bool,
    state_dir: str | None,
    wait_s: float,
    foreground: bool,
) -> None:
    """Start the daemon that serves the registry from this host, and return when it is ready.

    Ready: it listens, and every active version is loaded or has failed. Failures are named on stderr; the daemon then
    runs all the same (see: clipperfs status).
    """
    daemon = open_daemon(
        call,
        port=port,
        admin_port=admin_port,
        host=host,
        frontends=frontends,
        models=list(models) or None,
        cache_limit=cache_limit,
        prediction_cache=prediction_cache,
        max_body=max_body,
        max_connections=max_connections,
        slow=slow,
        event_queue=event_queue,
        trusted_keys=trusted_keys_file,
        watch=False if no_watch else None,
        state_dir=state_dir,
    )
    if foreground:
        daemon.run()
    word = daemon.start(wait_s, progress=lambda step: call.say(_facts(step)))
    for failure in word.get("failed") or []:
        call.say(f"could not be loaded: {_facts(failure)}")
    document = {"registry": daemon.registry, "state_dir": str(daemon.state_dir), **word}
    call.emit(document, lambda: f"serving {daemon.registry} on port {word.get('port')} (pid {word.get('pid')})")


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
        call.emit_line(event, _facts(event))


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
        lines = [_facts(change) for change in report.get("changes") or []]
        lines += [f"FAILED {_facts(failure)}" for failure in report.get("failed") or []]
        return "\n".join(lines or ["nothing changed"])

    call.emit(report, text)
    if report.get("failed"):
        context.exit(exit_table.FAILED)


def _facts(thing: Any) -> str:
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
