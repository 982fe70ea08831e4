"""``restart``: a fresh daemon in the place of the one that runs, without a failed request."""

from __future__ import annotations

from typing import Any

from clipperfs.cli.call import Call
from clipperfs.cli.daemon import facts, open_daemon, say_started, state_dir_option, wait_option
from clipperfs.cli.daemon_options import daemon_options, given_settings, keywords
from clipperfs.cli.frame import command


@command(
    "restart",
    short_help="Replace the running daemon by a fresh one, without a failed request.",
    examples=["clipperfs restart", "clipperfs restart --frontends 2 --wait 5m"],
)
@daemon_options(with_defaults=False)
@state_dir_option
@wait_option
def restart(call: Call, state_dir: str | None, wait_s: float, **options: Any) -> None:
    """Replace the daemon by a fresh one with the same settings, without a failed request. Options given here replace
    those with which the one that runs was started; file and environment are not read for them.

    The new one is started beside the old one, takes over its ports and connections, loads everything, and takes its
    place when it is ready. If it does not get ready, or this command is interrupted, the old one goes on. Where none
    runs, nothing is started (exit 3).
    """
    given = given_settings(options)
    daemon = open_daemon(call, state_dir=state_dir, **given)
    names = [name for name, value in given.items() if value is not None]
    overrides = keywords(call.settings(**given), names)
    word = daemon.restart(wait_s, progress=lambda step: call.say(facts(step)), **overrides)
    say_started(call, daemon, word)
