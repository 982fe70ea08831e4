"""``status``: what the daemon of this host serves, or all daemons of the registry, and what is wrong."""

from __future__ import annotations

import threading
from typing import Any

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call
from clipperfs.cli.daemon import open_daemon, state_dir_option
from clipperfs.cli.frame import command
from clipperfs.cli.text import table, visible
from clipperfs.cli.value import DURATION

SHORTEST_PERIOD_S = 0.2


@command(
    "status",
    short_help="Show what the daemon serves, or all daemons, and what is wrong.",
    examples=[
        "clipperfs status",
        "clipperfs status --json",
        "clipperfs status --cluster",
        "clipperfs status --cluster --model digits --every 5s",
    ],
)
@click.option("--cluster", is_flag=True, help="Show all daemons that report to the registry, from any host.")
@click.option("--model", metavar="MODEL", help="With --cluster: only this model.")
@click.option(
    "--every", "every_s", type=DURATION, metavar="DURATION", help="With --cluster: again and again, to Ctrl-C."
)
@state_dir_option
@click.pass_context
def status(
    context: click.Context,
    call: Call,
    cluster: bool,
    model: str | None,
    every_s: float | None,
    state_dir: str | None,
) -> None:
    """Show what the daemon of this host serves, in which state each part is, and what is wrong.

    Exit 8 when it does not serve all that it should, 3 when there is no daemon.

    With --cluster: all daemons, by what they write into the registry, compared with its newest records: who serves
    what, who is behind, who refused a version and why, who was not heard of in time. Exit 8 when something is wrong.
    """
    if not cluster:
        if model is not None or every_s is not None:
            raise click.UsageError("--model and --every go with --cluster.")
        document = open_daemon(call, state_dir=state_dir).status()
        call.emit(document, lambda: status_text(document))
        if document.get("degraded"):
            context.exit(exit_table.DEGRADED)
        return
    from clipperfs.cli.cluster import cluster_text

    registry = call.registry()
    while every_s is not None:
        report = registry.cluster(model)
        call.emit_line(report, f"{report.time}\n{cluster_text(report)}\n")
        threading.Event().wait(max(every_s, SHORTEST_PERIOD_S))
    report = registry.cluster(model)
    call.emit(report, lambda: cluster_text(report))
    if report.degraded:
        context.exit(exit_table.DEGRADED)


def status_text(document: dict[str, Any]) -> str:
    """Return the status document as text. Fields that another release leaves out are passed over."""
    daemon, registry = document.get("daemon", {}), document.get("registry", {})
    frontends = document.get("frontends", [])
    facts = {
        "daemon": f"pid {daemon.get('pid')}, port {daemon.get('port')}, since {daemon.get('started', '-')}"
        + ("" if daemon.get("ready", True) else ", NOT READY"),
        "registry": f"{registry.get('url', '-')} is {registry.get('state', '-')}",
        "frontends": ", ".join(str(one.get("state")) for one in frontends) or "-",
        "state": "DEGRADED" if document.get("degraded") else "ok",
    }
    lines = [f"{name:10} {visible(value)}" for name, value in facts.items()]
    lines += [f"fault      {visible(fault)}" for fault in document.get("reasons") or document.get("faults") or []]
    lines += [
        f"refused    {visible(one.get('model'))}/{visible(one.get('version'))}: {visible(one.get('reason'))}"
        for one in document.get("refused") or []
    ]
    rows = [row for name, model in sorted(document.get("models", {}).items()) for row in _model_rows(name, model)]
    if rows:
        lines += ["", table(("model", "version", "state", "replicas", "record", "role", "reason"), rows)]
    return "\n".join(lines)


def _model_rows(name: str, model: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for one in model.get("versions", []):
        version = one.get("version")
        roles = ["answers"] if version == model.get("serving") else []
        roles += ["active"] if version == model.get("active") and version != model.get("serving") else []
        trial = model.get("rollout")
        if trial and trial.get("version") == version and one.get("role") == trial.get("kind"):
            roles.append(f"{trial['kind']} {trial['percent']:g} %")
        roles += [f"alias {alias}" for alias, to in model.get("aliases", {}).items() if to == version]
        replicas = f"{one.get('replicas_ready')}/{one.get('replicas_wanted')}"
        reason = one.get("reason")
        if reason is None and one.get("replicas_waiting") and not one.get("pids"):
            reason = "waits for its turn to load"
        rows.append((name, version, one.get("state"), replicas, model.get("applied_seq"), ", ".join(roles), reason))
    if not rows:
        why = model.get("unavailable") or "no active version"
        rows.append((name, model.get("active"), "not loaded", None, model.get("applied_seq"), None, why))
    return rows
