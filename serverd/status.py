"""The status document: what a daemon serves, in which state each part is, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipperfs.serverd.desired import ACTIVE, WantedModel
from clipperfs.serverd.fleet import Fleet
from clipperfs.serverd.frontends import FrontendPool
from clipperfs.serverd.guard import Guard
from clipperfs.serverd.holding import Holding
from clipperfs.serverd.routing import RoutingTable

from clipperfs.documents import ReplicaStatus, ServedModel


def describe(
    daemon: dict[str, Any],
    registry: dict[str, Any],
    frontends: FrontendPool,
    fleet: Fleet,
    applied: Mapping[str, int],
    refusals: Mapping[tuple[str, str], tuple[str, str]],
    guard: Guard,
) -> dict[str, Any]:
    """Return the status document."""
    models = {
        name: {
            **describe_model(fleet, wanted, applied.get(name, 0), frontends.table),
            "rollout": guard.describe(name),
        }
        for name, wanted in sorted(fleet.desired.models.items())
    }
    processes = frontends.describe()
    faults = find_faults(models, registry, processes) if daemon["ready"] else ["the daemon is not ready"]
    faults += guard.faults()
    return {
        "daemon": daemon,
        "registry": registry,
        "frontends": processes,
        "models": models,
        "apps": {
            name: {
                "seq": app.seq,
                "input_type": app.input_type,
                "slo_us": app.slo_us,
                "default_output": app.default_output,
                "model": app.model,
            }
            for name, app in sorted(fleet.desired.apps.items())
        },
        "quarantined": failed_versions(fleet),
        "refused": [
            {"model": model, "version": version, "hook": hook or None, "reason": reason}
            for (model, version), (hook, reason) in sorted(refusals.items())
        ],
        "degraded": bool(faults),
        "reasons": faults,
    }


def failed_versions(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the versions that could not be loaded and are not tried again for now."""
    return [
        {"model": one.model, "version": one.version, "reason": one.reason, "hint": one.hint, "since": one.since}
        for one in fleet.holdings.values()
        if one.phase == "failed"
    ]


def describe_model(fleet: Fleet, wanted: WantedModel, applied_seq: int, table: RoutingTable) -> dict[str, Any]:
    """Return one model's part of the status document."""
    answering = fleet.answering(wanted.name)
    load = wanted.names.get(ACTIVE)
    route = table.models.get(wanted.name)
    held = [one for one in fleet.holdings.values() if one.model == wanted.name]
    return {
        "seq": wanted.seq,
        "applied_seq": applied_seq,
        "active": wanted.loads[load].version if load is not None else None,
        "serving": answering.version if answering and answering.ready else None,
        "unavailable": route.unavailable if route else None,
        "aliases": {
            name: one.version
            for name in sorted(wanted.names)
            if name != ACTIVE and (one := fleet.answering(wanted.name, name)) is not None
        },
        "policy": wanted.policy.model_dump(mode="json"),
        "versions": [
            {**one.describe(fleet.replicas_wanted(one)), "key": one.key, "role": _role(wanted, one, answering)}
            for one in sorted(held, key=lambda one: one.key)
        ],
    }


def _role(wanted: WantedModel, one: Holding, answering: Holding | None) -> str | None:
    """Return ``active`` for what answers, ``canary`` or ``shadow`` for what is on trial, else ``None``."""
    if one is answering:
        return "active"
    rollout = wanted.rollout
    return rollout.kind if rollout is not None and rollout.load == one.wanted.load else None


def find_faults(
    models: Mapping[str, Mapping[str, Any]], registry: Mapping[str, Any], frontends: list[dict[str, Any]]
) -> list[str]:
    """Return what keeps a daemon from serving everything that it should, a sentence each. Pure."""
    faults = []
    if registry["state"] != "reachable":
        faults.append(f"the registry is {registry['state']}: {registry['reason']}")
    if registry.get("event_queue"):
        faults.append(f"the event queue is silent, polls go on: {registry['event_queue']}")
    faults += [f"{subject} is not followed: {alarm}" for subject, alarm in registry["alarms"].items()]
    faults += [f"frontend {one['index']} is {one['state']}" for one in frontends if one["state"] == "starting"]
    for name, model in models.items():
        for one in model["versions"]:
            if one["state"] == "quarantined":
                faults.append(f"version {one['version']} of model {name} could not be loaded: {one['reason']}")
            elif one["state"] == "ready" and one["replicas_ready"] < one["replicas_wanted"]:
                faults.append(
                    f"version {one['version']} of model {name} has {one['replicas_ready']} of "
                    f"{one['replicas_wanted']} replicas" + (f": {one['reason']}" if one["reason"] else "")
                )
        is_off = model["policy"]["replicas"] == 0
        if model["active"] is not None and model["serving"] is None and not is_off:
            faults.append(f"model {name} answers no query: {model['unavailable']}")
    return faults


def replica_status(
    fleet: Fleet,
    applied: Mapping[str, int],
    *,
    name: str,
    host: str,
    pid: int,
    software: str,
    time: str,
    expires: float,
) -> ReplicaStatus:
    """Return what the daemon writes into the registry for others to see."""
    models = {}
    for model in fleet.desired.models:
        answering = fleet.answering(model)
        models[model] = ServedModel(
            applied_seq=applied.get(model, 0),
            active=answering.version if answering and answering.ready else None,
            versions=[one.loaded(fleet.replicas_wanted(one)) for one in fleet.holdings.values() if one.model == model],
        )
    return ReplicaStatus(
        replica=name, host=host, pid=pid, software=software, time=time, expires_unix_s=expires, models=models
    )
