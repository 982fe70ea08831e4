"""Records: the numbered, chained entries of a model's or an application's ledger, and the state each carries."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from clipperfs.documents.author import HookSettings, InputType, hook_in_short
from clipperfs.documents.base import Document
from clipperfs.documents.manifest import checked_digest
from clipperfs.documents.signature import RecordSignature, SignedPolicy
from clipperfs.limits import LIMITS
from clipperfs.names import name_problem

Outcome = Literal["passed", "refused", "error", "timeout", "skipped"]


class Verdict(Document):
    """What one hook said of a candidate. Everything but ``passed`` and ``skipped`` refuses it."""

    hook: str
    outcome: Outcome
    reason: str = ""
    next_step: str | None = None
    measures: dict[str, Any] = {}
    """What the hook measured, by name; names carry their units."""
    duration_ms: float = 0.0

    @property
    def is_refusal(self) -> bool:
        """Say whether this verdict keeps the candidate from becoming active."""
        return self.outcome not in ("passed", "skipped")


class ReportReference(Document):
    """Where the full report of a hook run is, and what its bytes must be."""

    key: str
    sha256: str


class Evidence(Document):
    """What a record rests on."""

    version: str | None = None
    manifest: str | None = None
    verdicts: list[Verdict] = []
    report: ReportReference | None = None


class Pointer(Document):
    """A version, by name and by the digest of its manifest, and the record that pointed here."""

    version: str
    manifest: str
    seq: int = Field(ge=1)
    inherited: dict[str, Any] = {}
    """Settings that the version leaves out, as taken over from the version that was active then."""

    @field_validator("version")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return checked_name(value)

    @field_validator("manifest")
    @classmethod
    def _is_digest(cls, value: str) -> str:
        return checked_digest(value)


class Retirement(Document):
    """A version on its way out: retired (not to be activated), deleted (restorable for the grace), then purging."""

    stage: Literal["retired", "deleted", "purging"]
    seq: int = Field(ge=1)
    time: str


REQUIRE_SIGNATURE = "require-signature"
"""The feature of a record whose policy wants versions to be signed."""


class RolloutLimits(Document):
    """What a rollout's candidate may not exceed; a daemon that sees it exceed one ends the rollout."""

    max_error_rate: float = Field(default=0.05, ge=0, le=1)
    """The share of its queries that it failed: it raised, died, or had no live replica."""
    max_default_rate: float = Field(default=0.05, ge=0, le=1)
    """The share of its queries that it did not answer in time, or could not take in."""
    max_latency_ratio: float = Field(default=2.0, gt=0, le=1000)
    """Its mean predict time as a multiple of the active version's."""
    max_differ_rate: float | None = Field(default=None, ge=0, le=1)
    """For a shadow: the share of its outputs that differ from the active version's; ``None``: any."""
    min_queries: int = Field(default=100, ge=1, le=1_000_000)
    """Fewer queries of the candidate are not judged."""


class Policy(SignedPolicy):
    """What a model's owners decided about it. See ``clipperfs policy --help``."""

    activation: Literal["manual", "on-publish"] = "manual"
    adopt: Literal["marker", "quiescent", "manifest"] = "marker"
    replicas: int = Field(default=1, ge=0, le=256)
    """Replica processes of the active version on each host; 0 keeps it off."""
    cache: Literal["on", "off"] = "on"
    allow_code: bool = False
    """Whether formats that execute code (pickle, joblib, cloudpickle, a version's own code) may be loaded."""
    keep_previous_s: float = Field(default=60.0, ge=0, le=86_400)
    """How long the previous version stays warm after a switch."""
    hooks: list[HookSettings] = []
    """Hooks that every candidate must pass, whatever its author asks for."""
    hook_timeout_s: float = Field(default=60.0, gt=0, le=86_400)
    load_timeout_s: float = Field(default=300.0, gt=0, le=86_400)
    predict_timeout_s: float = Field(default=30.0, gt=0, le=86_400)
    """After this long with one batch a replica counts as hanging and is replaced."""
    quiet_s: float = Field(default=10.0, ge=0, le=86_400)
    """How long a copy's listing must be unchanged before it is adopted without a manifest."""
    grace_s: float = Field(default=86_400.0, ge=0)
    """How long after a delete the payload stays restorable."""
    rollout_limits: RolloutLimits | None = None
    """What a rollout's candidate may not exceed unless its start says otherwise; ``None``: the defaults."""

    @model_serializer(mode="wrap")
    def _without_absent_limits(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Records from before there were such limits are spelled as they were.
        tree: dict[str, Any] = serialize(self)
        if self.rollout_limits is None:
            tree.pop("rollout_limits", None)
        return tree

    @field_validator("hooks", mode="before", json_schema_input_type=list[HookSettings | str | dict[str, Any]])
    @classmethod
    def _hooks_in_short(cls, value: Any) -> Any:
        return [hook_in_short(item) for item in value] if isinstance(value, list) else value


class Rollout(Document):
    """A version on trial beside the active one (``registry_layout.md`` §8.17)."""

    kind: Literal["canary", "shadow"]
    candidate: Pointer
    percent: float = Field(gt=0, le=100)
    """The share of the keys that it concerns, with at most two decimals."""
    salt: str = Field(pattern="^[0-9a-f]{8,64}$")
    """What the cohort is drawn with; it stays while the share of one candidate changes, so that a cohort only grows."""
    started_seq: int = Field(ge=1)
    limits: RolloutLimits = RolloutLimits()

    @field_validator("percent")
    @classmethod
    def _has_two_decimals(cls, value: float) -> float:
        if round(value, 2) != value:
            raise ValueError("a percentage has at most two decimals")
        return value


class ModelState(Document):
    """The complete state of a model after a record: a reader needs nothing older."""

    active: Pointer | None = None
    previous: Pointer | None = None
    aliases: dict[str, Pointer] = {}
    pins: list[Pointer] = []
    """Versions that daemons keep loaded beside the active one."""
    rollout: Rollout | None = None
    """As it is stored; decide by :attr:`rollout_in_effect`."""
    retired: dict[str, Retirement] = {}
    policy: Policy = Policy()

    @property
    def rollout_in_effect(self) -> Rollout | None:
        """Return the rollout, unless it means nothing: a writer that knows no rollouts may have left one behind."""
        rollout, active = self.rollout, self.active
        if rollout is None or active is None or rollout.candidate.version in (active.version, *self.retired):
            return None
        return rollout

    @property
    def features(self) -> list[str]:
        """Return the features without which a reader would misunderstand this state (``registry_layout.md`` §10)."""
        return [REQUIRE_SIGNATURE] if self.policy.require_signature else []


class Link(Document):
    """The model that answers an application."""

    model: str

    @field_validator("model")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return checked_name(value)


class AppState(Document):
    """The complete state of an application after a record."""

    input_type: InputType
    default_output: str
    slo_us: int = Field(ge=100, le=3_600_000_000)
    """The latency objective, in microseconds: an answer by then, always."""
    max_concurrent: int | None = Field(default=None, ge=1, le=1_000_000)
    """Queries that each daemon takes in at a time."""
    max_rate: float | None = Field(default=None, gt=0, le=1e9, allow_inf_nan=False)
    """Queries a second that each daemon takes in."""
    links: list[Link] = Field(default=[], max_length=1)
    deleted: bool = False

    @property
    def features(self) -> list[str]:
        """Return the features without which a reader would misunderstand this state: none so far."""
        return []


class Record(Document):
    """What records of every ledger share."""

    schema_: Literal["clipperfs.record.v1"] = Field(default="clipperfs.record.v1", alias="schema")
    registry_id: str
    seq: int = Field(ge=1, le=LIMITS.seq)
    prev: str
    """SHA-256 of the bytes of record ``seq - 1``; 64 zeros for the first."""
    nonce: str = Field(min_length=16, max_length=64)
    """Chosen anew for every attempt: tells a writer whether the record it reads back is its own."""
    time: str
    actor: str = Field(max_length=200)
    op: str = Field(min_length=1, max_length=40)
    reason: str | None = Field(default=None, max_length=LIMITS.reason_chars)
    evidence: Evidence = Evidence()
    requires: list[str] = []
    """Features without which a reader would misunderstand this record."""
    signature: RecordSignature | None = None
    """Proves the actor; without it ``actor`` is a claim. Left out of records that are not signed."""

    @field_validator("prev")
    @classmethod
    def _is_digest(cls, value: str) -> str:
        return checked_digest(value)

    @model_serializer(mode="wrap")
    def _without_absent_signature(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        if self.signature is None:
            tree.pop("signature", None)
        return tree


class ModelRecord(Record):
    """A record of a model's ledger."""

    model: str
    state: ModelState


class AppRecord(Record):
    """A record of an application's ledger."""

    app: str
    state: AppState


def checked_name(value: str) -> str:
    """Return ``value`` if it follows the grammar of names; raise ValueError otherwise."""
    if (problem := name_problem(value)) is not None:
        raise ValueError(f"name {value!a} {problem}")
    return value
