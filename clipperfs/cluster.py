"""The state of all daemons of a registry: what each says of itself, compared with the newest records of the ledgers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from clipperfs.documents import LoadedVersion, ModelRecord, Pointer, ReplicaStatus, utc_now
from clipperfs.errors import NotFound, StoredDataError
from clipperfs.ledger import Head
from clipperfs.names import ModelName, model_name, name_problem
from clipperfs.presence import Presence, read_presences, valid_models
from clipperfs.workspace import Workspace

PARALLEL_HEADS = 16
CLOCK_NOTE_S = 5.0
"""A daemon's clock that differs from the storage's by more is mentioned."""

Answer = Literal["serves", "pending", "refused", "apart"]
"""serves: has applied the record and answers with what it points to · pending: on its way there · refused: could not
load the version, and does not try again by itself · apart: does not follow the model, or not yet."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one daemon's status says about a record."""

    replica: str
    answer: Answer
    why: str
    """Why not, or an empty text."""

    @property
    def serves(self) -> bool:
        """Say whether the daemon serves what the record points to."""
        return self.answer == "serves"


@dataclass(frozen=True, slots=True)
class ModelOnDaemon:
    """One model on one daemon."""

    model: str
    applied_seq: int
    behind: int | None
    """How many records the daemon is behind the head; ``None``: the head is not known, or lies before it."""
    active: str | None
    """The version that answers there."""
    answer: Answer | None
    """``None``: there is no head to compare with."""
    why: str
    versions: list[LoadedVersion]


@dataclass(frozen=True, slots=True)
class DaemonView:
    """One daemon, as its status describes it."""

    replica: str
    host: str
    pid: int
    software: str
    state: Literal["live", "expired"]
    age_s: float
    """Since it last wrote its status."""
    expires_in_s: float
    """Negative: since."""
    clock_ahead_s: float
    """How far its clock is ahead of the storage's; negative: behind."""
    models: list[ModelOnDaemon]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model on all live daemons that follow it."""

    model: str
    seq: int | None
    """Of the newest record; ``None``: it is not known, see ``alarm``."""
    active: str | None
    """The version that the newest record makes active."""
    is_off: bool
    """Whether the policy keeps the model off."""
    daemons: int
    serving: list[str]
    pending: dict[str, str]
    refused: dict[str, str]
    alarm: str | None
    """What is wrong with the ledger, or what a daemon knows and the ledger does not."""
    summary: str
    """All of that in a line."""

    @property
    def is_fine(self) -> bool:
        """Say whether every daemon that follows the model serves it, and at least one does."""
        return self.alarm is None and not self.pending and not self.refused and self.daemons > 0


@dataclass(slots=True)
class ClusterReport:
    """All daemons of a registry."""

    registry: str
    time: str
    degraded: bool = False
    faults: list[str] = field(default_factory=list)
    """What is wrong, a sentence each."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing, and no fault."""
    daemons: list[DaemonView] = field(default_factory=list)
    models: list[ModelSummary] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """Files in ``replicas/`` that are no status, and why."""


def judge(status: ReplicaStatus, record: ModelRecord, pointer: Pointer | None = None) -> Judgement:
    """Say whether a daemon has applied ``record`` and has loaded ``pointer``, by default the active version. Pure."""
    model = status.models.get(record.model)
    if model is None:
        return Judgement(status.replica, "apart", f"does not serve model {record.model}")
    # A model that its policy keeps off has nothing to load.
    active = (pointer or record.state.active) if record.state.policy.replicas > 0 else None
    mine = [loaded for loaded in model.versions if active is not None and loaded.manifest == active.manifest]
    refusals = [loaded.reason or loaded.state for loaded in mine if loaded.state in ("failed", "quarantined")]
    if refusals:
        return Judgement(status.replica, "refused", f"refused version {mine[0].version}: {refusals[0]}")
    if model.applied_seq < record.seq:
        return Judgement(status.replica, "pending", f"has applied record {model.applied_seq}, not yet {record.seq}")
    if model.applied_seq == record.seq and active is not None and not any(loaded.state == "ready" for loaded in mine):
        return Judgement(status.replica, "pending", f"has not loaded version {active.version} yet")
    return Judgement(status.replica, "serves", "")


def observe(workspace: Workspace, model: str | None = None, *, now_unix_s: float) -> ClusterReport:
    """Compare what all daemons say with the heads of the models that they follow.

    Costs one listing, one read for each daemon, and a look at the head of each model, several at a time.

    Args:
        workspace: the registry.
        model: look at this model alone.
        now_unix_s: the present, by this host's clock.

    Raises NotFound, InvalidName, StorageError.
    """
    workspace.document()
    presences = read_presences(workspace.store, now_unix_s=now_unix_s)
    names = [model_name(model)] if model is not None else list(map(model_name, valid_models(presences.live)))
    heads = read_heads(workspace, names)
    if model is not None and heads[names[0]] is None and not any(model in one.models for one in presences.live):
        raise NotFound(f"there is no model {model}", hint="'clipperfs list' shows the models", model=model)
    report = compare(presences.seen, heads, only=model)
    report.registry, report.ignored = workspace.store.url, presences.ignored
    return report


def read_heads(workspace: Workspace, names: list[ModelName]) -> dict[str, Head[ModelRecord] | StoredDataError | None]:
    """Return the newest record of each model, ``None`` where there is none, or what is wrong with the log."""

    def read(name: ModelName) -> Head[ModelRecord] | StoredDataError | None:
        try:
            return ledgers[name].head()
        except StoredDataError as error:
            return error

    if not names:
        return {}
    ledgers = {name: workspace.model_ledger(name) for name in names}
    with ThreadPoolExecutor(min(PARALLEL_HEADS, len(names)), thread_name_prefix="head") as pool:
        return dict(zip(names, pool.map(read, names), strict=True))


def compare(
    presences: list[Presence],
    heads: dict[str, Head[ModelRecord] | StoredDataError | None],
    *,
    only: str | None = None,
) -> ClusterReport:
    """Compare the daemons' statuses with the newest records of the models in question. Pure.

    The heads must have been read after the statuses: a daemon that is ahead of them is then evidence of a log that was
    cut.

    Args:
        presences: what each daemon says.
        heads: the newest record of each model, or what is wrong with its log.
        only: leave out what daemons say about other models.
    """
    report = ClusterReport(registry="", time=utc_now())
    for one in presences:
        report.daemons.append(_describe(one, heads, only))
        who = f"{one.status.replica} on {one.status.host}"
        if not one.is_live:
            why = "it ended without saying so, or it cannot reach the registry"
            report.faults.append(f"{who} was last heard {age(one.age_s)} ago: {why}")
        elif abs(one.clock_ahead_s) > CLOCK_NOTE_S:
            way = "ahead of" if one.clock_ahead_s > 0 else "behind"
            report.notes.append(f"the clock of {who} is {age(abs(one.clock_ahead_s))} {way} the storage's")
    live = [one.status for one in presences if one.is_live]
    if not live:
        report.faults.append("no daemon reports to this registry")
    report.models = [_summarise(name, head, live) for name, head in heads.items()]
    report.faults += [one.summary for one in report.models if not one.is_fine]
    report.faults += [
        f"{status.replica} has {loaded.replicas_ready} of {loaded.replicas_wanted} replicas of version "
        f"{loaded.version} of {name}" + (f": {loaded.reason}" if loaded.reason else "")
        for status in live
        for name, served in status.models.items()
        if name in heads
        for loaded in served.versions
        if loaded.state == "ready" and loaded.replicas_ready < loaded.replicas_wanted
    ]
    report.degraded = bool(report.faults)
    return report


def _describe(
    one: Presence, heads: dict[str, Head[ModelRecord] | StoredDataError | None], only: str | None
) -> DaemonView:
    status = one.status
    models = []
    for name, served in sorted(status.models.items()):
        if name_problem(name) is not None or only not in (None, name):
            continue
        head = heads.get(name)
        record = head.record if isinstance(head, Head) and one.is_live else None
        judgement = judge(status, record) if record is not None else None
        behind = record.seq - served.applied_seq if record is not None else None
        models.append(
            ModelOnDaemon(
                model=name,
                applied_seq=served.applied_seq,
                behind=behind if behind is not None and behind >= 0 else None,
                active=served.active,
                answer=judgement.answer if judgement is not None else None,
                why=judgement.why if judgement is not None else "",
                versions=served.versions,
            )
        )
    return DaemonView(
        replica=status.replica,
        host=status.host,
        pid=status.pid,
        software=status.software,
        state="live" if one.is_live else "expired",
        age_s=round(one.age_s, 3),
        expires_in_s=round(one.left_s, 3),
        clock_ahead_s=round(one.clock_ahead_s, 3),
        models=models,
    )


def _summarise(name: str, head: Head[ModelRecord] | StoredDataError | None, live: list[ReplicaStatus]) -> ModelSummary:
    followers = [status for status in live if name in status.models]
    if not isinstance(head, Head):
        damage = head.message if head is not None else "daemons follow it, but the registry has no records of it"
        return ModelSummary(name, None, None, False, len(followers), [], {}, {}, damage, f"{name}: {damage}")
    record = head.record
    judged = [judge(status, record) for status in followers]
    serving = [one.replica for one in judged if one.answer == "serves"]
    pending = {one.replica: one.why for one in judged if one.answer == "pending"}
    refused = {one.replica: one.why for one in judged if one.answer == "refused"}
    ahead = [one for one in followers if one.models[name].applied_seq > record.seq]
    alarm = (
        f"{ahead[0].replica} has applied record {ahead[0].models[name].applied_seq}, but the log ends at {record.seq}: "
        "records were taken away"
        if ahead
        else None
    )
    active = record.state.active.version if record.state.active is not None else None
    is_off = record.state.policy.replicas == 0
    return ModelSummary(
        model=name,
        seq=record.seq,
        active=active,
        is_off=is_off,
        daemons=len(followers),
        serving=serving,
        pending=pending,
        refused=refused,
        alarm=alarm,
        summary="; ".join(
            [
                f"{name}: {alarm or _share(len(serving), len(followers), active, is_off)} (record {record.seq})",
                *(f"{replica} {why}" for replica, why in sorted({**refused, **pending}.items())),
            ]
        ),
    )


def _share(serving: int, followers: int, active: str | None, is_off: bool) -> str:
    if followers == 0:
        return f"no daemon serves {active}" if active is not None else "no version is active, and no daemon follows it"
    if active is None:
        return "no version is active"
    daemons, ending = ("1 daemon", "s") if followers == 1 else (f"{followers} daemons", "")
    if is_off:
        return f"{serving} of {daemons} keep{ending} it off, as its policy says"
    return f"{serving} of {daemons} serve{ending} {active}"


def age(seconds: float) -> str:
    """Return a length of time for people, in one unit."""
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
