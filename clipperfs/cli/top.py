"""``top``: what the daemon is doing now, as a live view in the terminal or a stream of JSON lines."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING

import click

from clipperfs.cli.call import Call, figures
from clipperfs.cli.daemon import open_daemon, state_dir_option
from clipperfs.cli.frame import command
from clipperfs.cli.text import table, visible
from clipperfs.cli.value import DURATION

if TYPE_CHECKING:
    from clipperfs.activity import Activity, Series
    from clipperfs.daemon import Daemon


@command(
    "top",
    short_help="Show rates, latencies and queues, live.",
    examples=["clipperfs top", "clipperfs top --once", "clipperfs top --every 5s --json"],
)
@click.option("--every", "every_s", type=DURATION, default="1s", show_default=True, help="Time between two readings.")
@click.option("--once", is_flag=True, help="Show one interval and end.")
@state_dir_option
def top(call: Call, every_s: float, once: bool, state_dir: str | None) -> None:
    """Show what the daemon is doing: queries a second, latencies, default outputs, batches and queues.

    In a terminal the view is drawn again each time, until q or Ctrl-C, and outlives a restart of the daemon. Elsewhere,
    and with --json, each interval is printed below the one before. Exit 3 when there is no daemon.
    """
    from clipperfs.activity import compare, read_series

    if every_s < 0.1:
        raise click.UsageError("--every is at least 100ms.")
    daemon = open_daemon(call, state_dir=state_dir)
    before, began_s = read_series(daemon.metrics()), time.monotonic()
    if not call.json and not once and sys.stdout.isatty():
        _show_live(daemon, every_s, before, began_s)
        return
    while True:
        time.sleep(every_s)
        after, now_s = read_series(daemon.metrics()), time.monotonic()
        activity = compare(before, after, now_s - began_s)
        before, began_s = after, now_s
        call.emit_line(figures(activity), activity_text(activity))
        if once:
            return


def _show_live(daemon: Daemon, every_s: float, before: Series, began_s: float) -> None:
    """Draw one interval over the other until the reader has seen enough."""
    from clipperfs.activity import compare, read_series
    from clipperfs.cli.screen import open_screen
    from clipperfs.errors import DaemonNotRunning, ServingError, TimedOut

    with open_screen() as screen:
        screen.draw(f"measuring for {every_s:g} s …")
        while not screen.wait(every_s):
            try:
                after, now_s = read_series(daemon.metrics()), time.monotonic()
            except (DaemonNotRunning, ServingError, TimedOut) as error:
                screen.draw(f"{time.strftime('%H:%M:%S')}  waiting for the daemon: {visible(error)}\n\nq: leave")
                continue
            activity = compare(before, after, now_s - began_s)
            before, began_s = after, now_s
            screen.draw(f"{time.strftime('%H:%M:%S')}  {activity_text(activity)}\n\nq: leave")


def activity_text(activity: Activity) -> str:
    """Return one interval as text."""
    lines = [f"{activity.requests:,.0f} requests a second on {activity.connections:,.0f} connections", ""]
    apps = [
        (
            app.app,
            f"{app.queries:,.1f}",
            _figure(app.p50_ms),
            _figure(app.p99_ms),
            ", ".join(f"{reason} {rate:,.1f}" for reason, rate in app.defaults.items()) or "-",
            f"{app.bad_requests:,.1f}",
        )
        for app in activity.apps
    ]
    lines.append(table(("application", "queries/s", "p50 ms", "p99 ms", "default outputs/s", "bad/s"), apps))
    versions = [
        (
            one.model,
            one.version,
            f"{one.queries:,.1f}",
            "-" if math.isnan(one.cache_hit_share) else f"{one.cache_hit_share:.0%}",
            f"{_figure(one.batch_size)} of {one.batch_limit:g}",
            _figure(one.predict_ms),
            f"{one.busy:.2f} of {one.replicas:g}",
            f"{one.queued:g}",
            f"{one.retries:,.1f}",
            f"{one.failed_batches:,.1f}",
        )
        for one in activity.versions
        if one.queries or one.replicas or one.queued
    ]
    head = ("model", "version", "queries/s", "cached", "batch", "predict ms", "busy", "queued", "retries/s", "failed/s")
    lines += ["", table(head, versions)]
    return "\n".join(lines)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
