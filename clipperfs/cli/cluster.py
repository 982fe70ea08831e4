"""``status --cluster`` as text: every daemon of the registry, what it serves, and one line a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipperfs.cli.text import table, visible

if TYPE_CHECKING:
    from clipperfs.cluster import ClusterReport, DaemonView, ModelOnDaemon


def cluster_text(report: ClusterReport) -> str:
    """Return the report for people."""
    from clipperfs.cluster import age

    expired = sum(one.state == "expired" for one in report.daemons)
    lines = [
        f"registry   {visible(report.registry)}",
        f"daemons    {len(report.daemons) - expired} live" + (f", {expired} expired" if expired else ""),
        f"state      {'DEGRADED' if report.degraded else 'ok'}",
    ]
    lines += [f"fault      {visible(fault)}" for fault in report.faults]
    lines += [f"note       {visible(note)}" for note in report.notes]
    lines += [f"ignored    replicas/{visible(name)} {visible(why)}" for name, why in report.ignored]
    if report.daemons:
        rows = [(one.replica, one.host, one.state, age(one.age_s), one.software) for one in report.daemons]
        lines += ["", table(("daemon", "host", "state", "heard", "software"), rows)]
    served = [row for one in report.daemons for model in one.models for row in _rows(one, model)]
    if served:
        heading = ("model", "daemon", "record", "behind", "answers", "version", "state", "replicas", "reason")
        lines += ["", table(heading, sorted(served, key=lambda row: (str(row[0]), str(row[1]))))]
    if report.models:
        lines += ["", *(visible(one.summary) for one in report.models)]
    return "\n".join(lines)


def _rows(daemon: DaemonView, model: ModelOnDaemon) -> list[tuple[object, ...]]:
    start = (model.model, daemon.replica, model.applied_seq, model.behind, model.active)
    if not model.versions:
        return [(*start, None, "not loaded", None, model.why)]
    return [
        (*start, one.version, one.state, f"{one.replicas_ready}/{one.replicas_wanted}", one.reason)
        for one in model.versions
    ]
