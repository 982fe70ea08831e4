"""From what is wanted, what is held and what answers to the complete routing table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipperfs.serverd.desired import ACTIVE, Desired, WantedApp, WantedModel
from clipperfs.serverd.reconciler import Phase, Serving
from clipperfs.serverd.routing import (
    AppRoute,
    ModelRoute,
    RolloutRoute,
    RoutingTable,
    VersionRoute,
    explain_crashed,
    explain_load_failed,
    explain_loading,
    explain_refused,
)


@dataclass(frozen=True, slots=True)
class HeldView:
    """What the table needs to know about a held version."""

    key: str
    model: str
    version: str
    manifest: str
    load: str
    phase: Phase
    was_ready: bool
    """At least one replica of it has answered once."""
    replicas: tuple[str, ...] = ()
    """Identities of those that answer now."""
    input_type: str = ""
    max_batch: int = 512
    fixed_batch: int | None = None
    batch_delay_ms: float = 0.0
    idempotent: bool = True
    settings: str = ""
    """Tells one set of inherited settings from another (``WantedVersion.settings``)."""
    warm_up: tuple[tuple[int, float], ...] = ()
    """Queries and seconds of the warm-up batches of the replica that was ready first."""


def explain_off(model: str) -> str:
    """Return the explanation of a default output of a model whose policy asks for no replicas."""
    return f"Model {model} is switched off: its policy asks for 0 replicas"


def build_table(
    desired: Desired,
    held: Sequence[HeldView],
    serving: Serving,
    refused: Mapping[tuple[str, str], str],
    *,
    epoch: int,
    accepting: bool,
    frontends: int = 1,
) -> RoutingTable:
    """Return the routing table.

    Args:
        desired: what is wanted.
        held: everything held, also what must not be in the table any more.
        serving: which held version answers under which name.
        refused: (model, version) → hook, for versions that a hook refused while no version of the model was active.
        epoch: the table's number.
        accepting: whether the daemon is ready.
        frontends: how many share an application's limits, and the replicas.
    """
    apps = {name: _app_route(app, frontends) for name, app in desired.apps.items()}
    by_model: dict[str, list[HeldView]] = {}
    for one in held:
        by_model.setdefault(one.model, []).append(one)
    models = {
        name: _model_route(wanted, by_model.get(name, []), serving, refused) for name, wanted in desired.models.items()
    }
    return RoutingTable(epoch=epoch, accepting=accepting, apps=apps, models=models, frontends=frontends)


def _app_route(app: WantedApp, frontends: int) -> AppRoute:
    return AppRoute(
        app.input_type,
        app.slo_us,
        app.default_output,
        app.model,
        max_concurrent=None if app.max_concurrent is None else -(-app.max_concurrent // frontends),
        max_rate=None if app.max_rate is None else app.max_rate / frontends,
    )


def _model_route(
    wanted: WantedModel, held: Sequence[HeldView], serving: Serving, refused: Mapping[tuple[str, str], str]
) -> ModelRoute:
    by_key = {one.key: one for one in held}
    names = {}
    for name in wanted.names:
        key = serving.get((wanted.name, name))
        if key in by_key:
            names[name] = by_key[key]
    versions: dict[str, VersionRoute] = {}
    # Of two loads of one version (its settings changed with the pointer) the one that answers wins, then readiness.
    answering = {one.key for one in names.values()}
    for one in sorted(held, key=lambda one: (one.key in answering, bool(one.replicas), one.phase == "ready")):
        if one.phase in ("loading", "ready"):
            versions[one.version] = _version_route(wanted, one)
    active = names.get(ACTIVE)
    aliases = {name: one.version for name, one in names.items() if name != ACTIVE}
    for name, load in wanted.names.items():
        if name != ACTIVE and name not in aliases:
            aliases[name] = wanted.loads[load].version
    return ModelRoute(
        active=active.version if active else _wanted_version(wanted),
        aliases=aliases,
        unavailable=None if active and active.replicas else _why_unavailable(wanted, held, active, refused),
        cache=wanted.policy.cache == "on",
        versions=versions,
        rollout=rollout_route(wanted, held, versions),
    )


def rollout_route(
    wanted: WantedModel, held: Sequence[HeldView], versions: Mapping[str, VersionRoute]
) -> RolloutRoute | None:
    """Return where a rollout's queries go; ``None`` while its candidate cannot answer: the active version does then."""
    rollout = wanted.rollout
    if rollout is None:
        return None
    routed = versions.get(rollout.version)
    is_ready = any(one.load == rollout.load and routed and one.key == routed.key and one.replicas for one in held)
    return RolloutRoute(rollout.kind, rollout.version, rollout.percent, rollout.salt) if is_ready else None


def _version_route(wanted: WantedModel, one: HeldView) -> VersionRoute:
    unavailable = None
    if not one.replicas:
        explain = explain_crashed if one.was_ready else explain_loading
        unavailable = explain(wanted.name, one.version)
    return VersionRoute(
        key=one.key,
        manifest=one.manifest,
        settings=one.settings,
        input_type=one.input_type,
        replicas=tuple(sorted(one.replicas)),
        max_batch=one.max_batch,
        fixed_batch=one.fixed_batch,
        batch_delay_ms=one.batch_delay_ms,
        idempotent=one.idempotent,
        warm_up=one.warm_up,
        predict_timeout_s=wanted.policy.predict_timeout_s,
        unavailable=unavailable,
    )


def _wanted_version(wanted: WantedModel) -> str | None:
    load = wanted.names.get(ACTIVE)
    return wanted.loads[load].version if load is not None else None


def _why_unavailable(
    wanted: WantedModel, held: Sequence[HeldView], active: HeldView | None, refused: Mapping[tuple[str, str], str]
) -> str | None:
    if wanted.is_off:
        return explain_off(wanted.name)
    if active is not None:
        return explain_crashed(wanted.name, active.version)
    load = wanted.names.get(ACTIVE)
    if load is None:
        hooks = [(version, hook) for (model, version), hook in refused.items() if model == wanted.name]
        return explain_refused(wanted.name, *hooks[-1]) if hooks else None
    version = wanted.loads[load].version
    if any(one.load == load and one.phase == "failed" for one in held):
        if any(one.load == load and one.phase == "failed" and one.was_ready for one in held):
            return f"Model {wanted.name} has no live replica: version {version} kept crashing and was given up"
        return explain_load_failed(wanted.name, version)
    return explain_loading(wanted.name, version)
