"""What a daemon can be told on the command line: the options that ``start`` and ``restart`` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from clipperfs.cli.call import trusted_keys

if TYPE_CHECKING:
    from clipperfs.settings import Settings

KEYWORDS: dict[str, tuple[str, Callable[[Any], Any] | None]] = {
    "host": ("host", None),
    "port": ("port", None),
    "admin_port": ("admin_port", None),
    "frontends": ("frontends", None),
    "cache_dir": ("cache_dir", None),
    "cache_limit": ("cache_limit_bytes", int),
    "prediction_cache": ("prediction_cache_bytes", int),
    "max_body": ("max_body_bytes", int),
    "max_connections": ("max_connections", None),
    "slow": ("slow_s", None),
    "models": ("models", None),
    "event_queue": ("event_queue", None),
    "watch": ("watch", None),
    "drain": ("drain_s", None),
}
"""Of each setting: what ``Daemon`` calls it, and what makes it a plain value."""

OPTIONS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "--port": ("Port for queries; 0: any free one.", "1337", {"type": click.IntRange(0, 65535)}),
    "--admin-port": ("Loopback port of the status pages.", "1338", {"type": click.IntRange(0, 65535)}),
    "--host": ("Where queries are answered.", "127.0.0.1", {"metavar": "ADDRESS"}),
    "--frontends": ("Frontend processes; auto: one for two processors, at most 8.", "1", {"metavar": "N|auto"}),
    "--model": ("Serve only this model; may be repeated.", None, {"multiple": True, "metavar": "MODEL"}),
    "--cache-limit": ("What the local cache may hold, unused.", "20GB", {"metavar": "SIZE"}),
    "--prediction-cache": ("What each frontend's cache may hold; 0: none.", "64MiB", {"metavar": "SIZE"}),
    "--max-body": ("The largest body of a query.", "16MiB", {"metavar": "SIZE"}),
    "--max-connections": ("Connections that each frontend holds.", "4096", {"metavar": "N"}),
    "--slow": ("Log queries that take longer.", "those that miss their SLO", {"metavar": "DURATION"}),
    "--event-queue": ("An SQS queue of this daemon's own that tells of the bucket.", None, {"metavar": "URL"}),
    "--trusted-keys": (
        "Load only what a publisher in this file has signed.  [CLIPPERFS_TRUSTED_KEYS]",
        None,
        {"type": click.Path()},
    ),
    "--no-watch": ("Do not follow the registry until 'clipperfs watch' or a reload.", None, {"is_flag": True}),
}
"""Of each option: its help, what holds when it is not given, and how it is read."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def daemon_options(*, with_defaults: bool) -> Decorator:
    """Return what gives a command the options of a daemon's settings.

    Args:
        with_defaults: what is not given has a default, and help says which.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name, (text, default, reading) in reversed(OPTIONS.items()):
            shown = f"{text}  [default: {default}]" if with_defaults and default is not None else text
            names = (name, "models") if name == "--model" else (name,)
            function = click.option(*names, help=shown, **reading)(function)
        return function

    return decorate


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as settings by name; ``None`` is what was not typed."""
    settings = dict(options)
    settings["models"] = list(settings["models"]) or None
    settings["watch"] = False if settings.pop("no_watch") else None
    return settings


def keywords(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """Return settings under the names that ``Daemon`` knows them by.

    Args:
        settings: all of them.
        names: those that are wanted.
    """
    wanted = set(names)
    found: dict[str, Any] = {}
    for name, (keyword, convert) in KEYWORDS.items():
        if name in wanted:
            value = getattr(settings, name)
            found[keyword] = value if convert is None else convert(value)
    if "trusted_keys" in wanted and (keys := trusted_keys(settings)) is not None:
        found["trusted_keys"] = keys
    return found
