"""The routing table: which version answers an application's queries, and where its replicas are. Pure.

The controller makes a complete table for each change and sends it to every frontend; a frontend swaps to it in one
assignment. Nothing in a table is ever changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

NO_MODEL: Final = "No connected models found for query"
SLO_MISSED: Final = "Failed to retrieve a prediction response within the specified latency SLO"


def explain_loading(model: str, version: str) -> str:
    """Return the explanation of a default output while the version loads."""
    return f"Model {model} is loading version {version}"


def explain_crashed(model: str, version: str) -> str:
    """Return the explanation of a default output while a crashed version is being restarted."""
    return f"Model {model} has no live replica: version {version} crashed and is being restarted"


def explain_refused(model: str, version: str, hook: str) -> str:
    """Return the explanation of a default output when a hook keeps the version from being served."""
    return f"Version {version} of model {model} was refused by hook {hook}"


def explain_load_failed(model: str, version: str) -> str:
    """Return the explanation of a default output when the version's wrapper could not load it."""
    return f"Version {version} of model {model} could not be loaded"


def explain_failed(model: str) -> str:
    """Return the explanation of a default output when the wrapper raised, or two replicas died on the query."""
    return f"Model {model} failed on this query"


def explain_overload(model: str) -> str:
    """Return the explanation of a default output when the queue is full."""
    return f"Too many queries are waiting for model {model}"


def explain_limit(app: str) -> str:
    """Return the explanation of a default output when an application asks for more than its limits allow."""
    return f"Application {app} is over its limit of queries"


def explain_not_loaded(model: str, version: str) -> str:
    """Return the explanation of a default output when a query names a version that is not served."""
    return f"Version {version} of model {model} is not loaded"


def explain_input_type(model: str, input_type: str) -> str:
    """Return the explanation of a default output when the application's input type is not the model's."""
    return f"Model {model} expects inputs of type {input_type}"


@dataclass(frozen=True, slots=True)
class VersionRoute:
    """One served version. Units: ``batch_delay_ms`` milliseconds, ``predict_timeout_s`` seconds."""

    key: str
    """Unique for each load of a version: two loads of one version never share queries."""
    manifest: str
    input_type: str
    """Empty while it is not known, which it is once there are replicas."""
    replicas: tuple[str, ...] = ()
    """Identities in hex of the replicas that are ready."""
    input_size: int | None = None
    max_batch: int = 512
    fixed_batch: int | None = None
    batch_delay_ms: float = 0.0
    idempotent: bool = True
    predict_timeout_s: float = 30.0
    settings: str = ""
    """Tells one set of settings that the manifest leaves out from another: both decide what the model answers."""
    unavailable: str | None = None
    warm_up: tuple[tuple[int, float], ...] = ()
    """What a replica's warm-up batches took: queries and seconds of predicting of each, in the order of the batches."""

    def to_plain(self) -> dict[str, Any]:
        """Return the route as a map for the control channel."""
        return {
            "key": self.key,
            "manifest": self.manifest,
            "input_type": self.input_type,
            "input_size": self.input_size,
            "replicas": list(self.replicas),
            "max_batch": self.max_batch,
            "fixed_batch": self.fixed_batch,
            "batch_delay_ms": self.batch_delay_ms,
            "idempotent": self.idempotent,
            "predict_timeout_s": self.predict_timeout_s,
            "settings": self.settings,
            "unavailable": self.unavailable,
            "warm_up": [list(one) for one in self.warm_up],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> VersionRoute:
        """Return the route that ``to_plain`` wrote."""
        warm_up = tuple((rows, seconds) for rows, seconds in plain["warm_up"])
        return cls(**{**plain, "replicas": tuple(plain["replicas"]), "warm_up": warm_up})


@dataclass(frozen=True, slots=True)
class RolloutRoute:
    """A candidate that is ready: which queries it gets, or gets copies of."""

    kind: str
    """``canary`` or ``shadow``."""
    version: str
    percent: float
    salt: str

    def to_plain(self) -> dict[str, Any]:
        """Return the route as a map for the control channel."""
        return {"kind": self.kind, "version": self.version, "percent": self.percent, "salt": self.salt}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RolloutRoute:
        """Return the route that ``to_plain`` wrote."""
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """One model: which of its versions is active, and why none answers if so."""

    active: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    unavailable: str | None = None
    cache: bool = True
    versions: Mapping[str, VersionRoute] = field(default_factory=dict)
    rollout: RolloutRoute | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the route as a map for the control channel."""
        return {
            "active": self.active,
            "aliases": dict(self.aliases),
            "unavailable": self.unavailable,
            "cache": self.cache,
            "versions": {name: version.to_plain() for name, version in self.versions.items()},
            "rollout": None if self.rollout is None else self.rollout.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ModelRoute:
        """Return the route that ``to_plain`` wrote."""
        versions = {name: VersionRoute.from_plain(version) for name, version in plain["versions"].items()}
        rollout = plain["rollout"]
        staged = None if rollout is None else RolloutRoute.from_plain(rollout)
        return cls(**{**plain, "versions": versions, "rollout": staged})


@dataclass(frozen=True, slots=True)
class AppRoute:
    """One application. Units: ``slo_us`` microseconds, ``max_rate`` queries a second.

    The limits are what one frontend lets through.
    """

    input_type: str
    slo_us: int
    default_output: str
    model: str | None = None
    max_concurrent: int | None = None
    max_rate: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the route as a map for the control channel."""
        return {
            "input_type": self.input_type,
            "slo_us": self.slo_us,
            "default_output": self.default_output,
            "model": self.model,
            "max_concurrent": self.max_concurrent,
            "max_rate": self.max_rate,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> AppRoute:
        """Return the route that ``to_plain`` wrote."""
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class Choice:
    """The version that answers a query (all of the first three), or why none does (the last two)."""

    model: str = ""
    name: str = ""
    version: VersionRoute | None = None
    reason: str = ""
    """One of ``counters.REASONS``."""
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Everything that a frontend needs to route a query."""

    epoch: int = 0
    accepting: bool = False
    """False while the daemon is not ready: ``/readyz`` says so, queries are answered all the same."""
    apps: Mapping[str, AppRoute] = field(default_factory=dict)
    models: Mapping[str, ModelRoute] = field(default_factory=dict)
    frontends: int = 1
    """How many follow this table, and share the replicas in it."""

    def to_plain(self) -> dict[str, Any]:
        """Return the table as a map for the control channel."""
        return {
            "epoch": self.epoch,
            "accepting": self.accepting,
            "frontends": self.frontends,
            "apps": {name: app.to_plain() for name, app in self.apps.items()},
            "models": {name: model.to_plain() for name, model in self.models.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RoutingTable:
        """Return the table that ``to_plain`` wrote; a control message's kind is passed over."""
        return cls(
            epoch=plain["epoch"],
            accepting=plain["accepting"],
            frontends=plain["frontends"],
            apps={name: AppRoute.from_plain(app) for name, app in plain["apps"].items()},
            models={name: ModelRoute.from_plain(model) for name, model in plain["models"].items()},
        )

    def choose(self, app: AppRoute, pin: str | None = None) -> Choice:
        """Return the version that answers a query of the application now.

        Args:
            app: The application.
            pin: A version or an alias that the query asks for, instead of the active version.
        """
        model = None if app.model is None else self.models.get(app.model)
        if model is None or app.model is None:
            return Choice(reason="no_model", explanation=NO_MODEL)
        name = model.active if pin is None else model.aliases.get(pin, pin)
        if name is None:
            if model.unavailable is None:
                return Choice(reason="no_model", explanation=NO_MODEL)
            return Choice(reason="unavailable", explanation=model.unavailable)
        version = model.versions.get(name)
        if version is None:
            if pin is not None:
                return Choice(reason="not_loaded", explanation=explain_not_loaded(app.model, pin))
            loading = model.unavailable or explain_loading(app.model, name)
            return Choice(reason="unavailable", explanation=loading)
        if not version.replicas:
            explanation = version.unavailable or model.unavailable or explain_crashed(app.model, name)
            return Choice(reason="unavailable", explanation=explanation)
        if version.input_type != app.input_type:
            return Choice(reason="input_type", explanation=explain_input_type(app.model, version.input_type))
        return Choice(model=app.model, name=name, version=version)
