"""What this host needs to serve from a registry: a cache folder, a daemon, wrappers and hooks that can be imported."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from clipperfs import wire
from clipperfs.daemon_files import is_locked, running_daemon
from clipperfs.doctor.filesystem import room_at
from clipperfs.doctor.finding import Finding
from clipperfs.errors import ClipperfsError
from clipperfs.plugins import Group, load_plugin, plugin_names


def cache(root: Path) -> Finding:
    """Say whether verified copies can be kept in the cache folder."""
    nearest = root
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        step = "give a folder of yours: CLIPPERFS_CACHE_DIR, or cache_dir in clipperfs.toml"
        return Finding(
            "cache", "warning", f"this user cannot write to {nearest}, where the cache {root} would be", step
        )
    found = room_at("cache", root, "serving")
    return Finding("cache", found.level, f"{root}: {found.message}", found.next_step)


def daemon(state_dir: Path, url: str) -> Finding:
    """Say whether a daemon of this registry runs on this host."""
    try:
        running = running_daemon(state_dir)
        if running is not None:
            return Finding("daemon", "ok", f"it runs: pid {running.pid}, port {running.port}, since {running.started}")
        if is_locked(state_dir):
            return Finding(
                "daemon", "warning", f"{state_dir} is locked, but by no daemon that answers", "clipperfs status"
            )
    except ClipperfsError as error:
        return Finding("daemon", "warning", error.message, error.hint)
    return Finding("daemon", "note", "none runs on this host for this registry", f"clipperfs --registry {url} start")


def speed() -> Finding:
    """Say whether what a daemon is quick by is installed."""
    missing = []
    if wire.__file__.endswith(".py"):
        missing.append("the way of a query is not compiled, and takes twice the processor time: install a C compiler")
    if find_spec("simdjson") is None:
        missing.append("long lists of JSON numbers are read at half the speed: add the extra fast")
    if missing:
        return Finding("speed", "note", "; ".join(missing), "pip install --force-reinstall 'clipperfs[fast]'")
    return Finding("speed", "ok", "the way of a query is compiled, and simdjson reads long lists")


def plugins() -> list[Finding]:
    """Say which wrappers and hooks are installed, and which of them cannot be imported."""
    findings = []
    for group in get_args(Group):
        names, noun = plugin_names(group), group.rpartition(".")[2]
        for name in names:
            try:
                load_plugin(group, name)
            except ClipperfsError as error:
                step = "reinstall the distribution that brings it"
                findings.append(Finding(noun, "warning", error.message, step))
        findings.append(Finding(noun, "ok" if names else "warning", ", ".join(names) or "none is installed"))
    return findings
