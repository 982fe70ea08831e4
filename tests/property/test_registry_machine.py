"""Random verbs, races, plain copies, faults and crashes against a plain model; the invariants by their numbers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from clipperfs import Registry, layout
from clipperfs.activate import Outcome
from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.digest import digest_bytes
from clipperfs.documents import ModelRecord, RegistryDocument, Verdict, canonical_bytes, parse_document
from clipperfs.errors import (
    ActivationRefused,
    ClipperfsError,
    DamagedLog,
    DamagedVersion,
    IncompleteVersion,
    InvalidDocument,
    InvalidName,
    NotFound,
    OutcomeUnknown,
    StorageError,
    StoredDataError,
    UnknownFeature,
)
from clipperfs.ledger import Head, Ledger
from clipperfs.names import name_problem
from clipperfs.registry import Published
from clipperfs.store import Store
from clipperfs.store.local import LocalStore
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.fault_store import Crashed, Fault, FaultStore
from tests.property.interleavings import memory_store_of
from tests.property.machine_model import Plain
from tests.scale import scaled

T = TypeVar("T")
Machine = TypeVar("Machine", bound="RegistryMachine")

VERSIONS = st.sampled_from(["1", "2", "3"])
ALIASES = st.sampled_from(["stable", "next"])
WHO = st.sampled_from(["first", "second", "fresh"])
"""Which process: two that live on, with what they remember and a cache of their own, or one that just began."""
FAULTS = st.sampled_from(["none", "none", "none", "error", "crash", "crash-after", "lost"])
AT = st.one_of(st.integers(-4, -1), st.integers(1, 25))
"""Which call something happens at: the nth of all, or (negative) the nth that writes."""
WRITES = frozenset(["create", "replace", "upload", "delete", "delete_folder", "rename_folder"])
SUBJECT = layout.model_subject("m")
LOG = "models/m/log/"
SHM = "/dev/shm"
SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(layout.__file__).parent / "documents/schemas/record.model.v1.json").read_text())
)


def when_changed(check: Callable[[Machine, dict[str, bytes]], None]) -> Callable[[Machine], None]:
    """Make an invariant that looks only when the files are others than when it looked last."""

    def look(self: Machine) -> None:
        files = self.files()
        if self.last_looks.get(check.__name__) != files:
            check(self, files)
            self.last_looks[check.__name__] = files

    look.__name__ = check.__name__
    look.__doc__ = check.__doc__
    return look


class Interrupted:
    """A store between two calls of which something else happens."""

    def __init__(self, store: Store, at: int, happening: Callable[[], None]) -> None:
        self._store = store
        self._at = at
        self._left = abs(at)
        self._happening = happening

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            if self._at > 0 or name in WRITES:
                self._left -= 1
            if self._left == 0:
                self._happening()
            return found(*arguments, **options)

        return call


class AimedFaultStore(FaultStore):
    """Counts only the calls that write where ``at`` is negative: those are the ones that hurt."""

    def __init__(self, store: Store, *, at: int, fault: Fault) -> None:
        super().__init__(store, at=abs(at), fault=fault)
        self._counts = WRITES if at < 0 else None

    def _meet(self, method: str, key: str, call: Callable[[], T]) -> T:
        if self._counts is not None and method not in self._counts and not self.has_crashed:
            return call()
        return super()._meet(method, key, call)


class RegistryMachine(RuleBasedStateMachine):
    """Two writers that live on and others that come and go; everything may fail, crash or race at any call."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(runner, "run_hooks", self.answer_for_hooks)
        self.patch.setattr("clipperfs.ledger.time.sleep", lambda _: None)
        # In memory where that can be: nothing here is about disks, and the cache makes every file durable.
        self.place = Path(tempfile.mkdtemp(prefix="cfs-machine-", dir=SHM if os.access(SHM, os.W_OK) else None))
        self.store = self.make_store()
        self.outcome = "passed"
        self.living: dict[str, Registry] = {}
        self.calls = 0
        self.last_looks: dict[str, dict[str, bytes]] = {}
        self.last_verb: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
        # The plain model.
        self.slots: list[bytes] = []
        self.plain = Plain()
        self.acknowledged: dict[str, int] = {}
        self.refused: set[str] = set()
        self.contents: dict[str, str] = {}
        self.inherited: dict[tuple[str, int], dict[str, Any]] = {}
        for version, yaml in (("1", "wrapper: noop\n"), ("2", "wrapper: noop\n"), ("3", "input_type: doubles\n")):
            folder = self.place / version
            folder.mkdir()
            (folder / "weights").write_text(f"weights of {version}")
            (folder / "model.yaml").write_text(yaml)

    def make_store(self) -> Store:
        return MemoryStore("machine")

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.place, ignore_errors=True)

    def answer_for_hooks(self, request: CheckRequest) -> list[Verdict]:
        for subject in (request.candidate, request.active):
            if subject is not None:  # I14: what is checked, and would be loaded, is what the manifest lists
                self.require_listed_bytes(subject.path, subject.manifest)
        return [Verdict.model_validate({"hook": hook.name, "outcome": self.outcome}) for hook in request.hooks]

    @initialize(versions=st.sampled_from([(), ("1", "2")]))
    def create(self, versions: tuple[str, ...]) -> None:
        document = RegistryDocument(registry_id="r" * 16, created="-", created_by="-", store_class="memory")
        self.store.create(layout.REGISTRY, canonical_bytes(document))
        for version in versions:  # so that half of the runs need not find the way to here first
            self.attempt("first", "none", 0, "publish", version, self.place / version)
        if versions:
            self.attempt("first", "none", 0, "activate", "1")

    # What happens

    def open(self, who: str = "fresh", store: Store | None = None) -> Registry:
        registry = self.living.get(who)
        if registry is None:
            registry = Registry(self.place / "x", cache_dir=self.place / f"cache-{who}", actor=who)
            if who != "fresh":
                self.living[who] = registry
        registry.workspace.store = store or self.store
        for ledger in registry.workspace._models.values():
            ledger.store = registry.workspace.store
        return registry

    def attempt(self, who: str, fault: str, at: int, verb: str, *arguments: Any, **options: Any) -> object:
        """Run a verb, with a fault at one of its calls; note what it was told. Returns what came of it."""
        self.calls += 1
        reason = f"call {self.calls}"
        store = self.store if fault == "none" else AimedFaultStore(self.store, at=at, fault=fault)  # type: ignore[arg-type]
        self.last_verb = (verb, arguments, options)
        return self.run(self.open(who, store), who, reason, verb, *arguments, **options)

    def run(self, registry: Registry, who: str, reason: str, verb: str, *arguments: Any, **options: Any) -> object:
        if verb != "collect":
            options = {**options, "reason": reason}
        try:
            answer: object = (
                getattr(registry, verb)("m", *arguments, **options) if verb != "collect" else registry.collect()
            )
        except Crashed as crash:
            self.living.pop(who, None)
            return crash
        except OutcomeUnknown as error:
            return error
        except ClipperfsError as error:
            if verb not in ("publish", "seal", "collect"):  # those go on after their record
                self.refused.add(reason)
            return error
        if isinstance(answer, Outcome) and answer.changed and answer.record is not None:
            self.acknowledged[reason] = answer.record.seq
        if isinstance(answer, Published) and answer.record.reason == reason:
            self.acknowledged[reason] = answer.record.seq
        return answer

    @rule(who=WHO, version=VERSIONS, fault=FAULTS, at=AT)
    def publish(self, who: str, version: str, fault: str, at: int) -> None:
        self.attempt(who, fault, at, "publish", version, self.place / version)

    @rule(who=WHO, version=VERSIONS, fault=FAULTS, at=AT, off=st.sampled_from([None, 0, -1]))
    def activate(self, who: str, version: str, fault: str, at: int, off: int | None) -> None:
        """Activate, perhaps expecting a record: the newest, or one that is not."""
        if off is None or not self.slots:
            self.attempt(who, fault, at, "activate", version)
            return
        expected = len(self.slots) + off
        came = self.attempt(who, fault, at, "activate", version, expect_seq=expected)
        if isinstance(came, Outcome) and came.record is not None:
            assert off == 0 and came.record.seq in (expected, expected + 1)

    @rule(who=WHO, fault=FAULTS, at=AT)
    def roll_back(self, who: str, fault: str, at: int) -> None:
        self.attempt(who, fault, at, "rollback")

    @rule(who=WHO, name=ALIASES, version=st.one_of(st.none(), VERSIONS), fault=FAULTS, at=AT)
    def alias(self, who: str, name: str, version: str | None, fault: str, at: int) -> None:
        self.attempt(who, fault, at, "alias", name, version)

    @rule(who=WHO, version=VERSIONS, remove=st.booleans(), fault=FAULTS, at=AT)
    def pin(self, who: str, version: str, remove: bool, fault: str, at: int) -> None:
        self.attempt(who, fault, at, "pin", version, remove=remove)

    @rule(who=WHO, replicas=st.integers(0, 5), fault=FAULTS, at=AT)
    def policy(self, who: str, replicas: int, fault: str, at: int) -> None:
        self.attempt(who, fault, at, "policy", {"replicas": replicas})

    @rule(who=WHO, version=VERSIONS, undo=st.booleans(), fault=FAULTS, at=AT)
    def retire(self, who: str, version: str, undo: bool, fault: str, at: int) -> None:
        self.attempt(who, fault, at, "retire", version, undo=undo)

    @rule(who=WHO, version=VERSIONS, restore=st.booleans(), fault=FAULTS, at=AT)
    def delete(self, who: str, version: str, restore: bool, fault: str, at: int) -> None:
        self.attempt(who, fault, at, "delete", version, restore=restore)

    @rule(who=WHO, fault=FAULTS, at=AT, at_once=st.booleans())
    def collect(self, who: str, fault: str, at: int, at_once: bool) -> None:
        if at_once:
            self.attempt(who, "none", 0, "policy", {"grace_s": 0.0})
        self.attempt(who, fault, at, "collect")

    @rule(version=VERSIONS, part=st.sampled_from(["weights", "model.yaml", "READY"]), share=st.floats(0, 1))
    def copy_a_part(self, version: str, part: str, share: float) -> None:
        """A plain copy, as far as it has got."""
        if f"models/m/versions/{version}/manifest.json" in self.files():
            return
        data = (self.place / version / part).read_bytes() if part != "READY" else b"x"
        cut = self.place / "cut"
        cut.write_bytes(data[: round(len(data) * share)])
        self.store.upload(cut, f"models/m/versions/{version}/{part}")

    @rule(who=WHO, version=VERSIONS, fault=FAULTS, at=AT)
    def seal_a_whole_copy(self, who: str, version: str, fault: str, at: int) -> None:
        for part in ("weights", "model.yaml"):
            self.copy_a_part(version, part, 1.0)
        self.attempt(who, fault, at, "seal", version)

    @rule(version=VERSIONS)
    def leave_something_extra(self, version: str) -> None:
        if f"models/m/versions/{version}/manifest.json" in self.files():
            self.store.replace(f"models/m/versions/{version}/extra.pkl", b"never listed")

    @rule(hint=st.sampled_from(["none", "stale", "too high", "garbage"]))
    def forge_hints(self, hint: str) -> None:
        forge(self.store, hint, len(self.slots))

    @rule(field=st.sampled_from(["quota", "owner"]))
    def write_by_another_program(self, field: str) -> None:
        """A newer or foreign writer: other spelling, unknown fields, the same algorithm."""
        slots = slots_of(self.files())
        state = json.loads(slots[-1])["state"] if slots else {}
        tree = {
            "state": {**state, field: {"of": "another release"}},
            "schema": "clipperfs.record.v1",
            "registry_id": "r" * 16,
            "model": "m",
            "seq": len(slots) + 1,
            "prev": digest_bytes(slots[-1]) if slots else "0" * 64,
            "nonce": f"{len(slots):032d}",
            "time": "2026-11-20T12:00:00.000Z",
            "actor": "foreign",
            "op": "foreign",
            "note": "unknown, too",
        }
        assert self.store.create(layout.slot(SUBJECT, len(slots) + 1), json.dumps(tree).encode())

    @rule(version=VERSIONS, fault=FAULTS, at=AT)
    def put_away_for_good(self, version: str, fault: str, at: int) -> None:
        self.attempt("first", "none", 0, "delete", version)
        self.attempt("first", "none", 0, "policy", {"grace_s": 0.0})
        self.attempt("first", fault, at, "collect")

    @rule(version=VERSIONS, verb=st.sampled_from(["policy", "activate", "pin", "retire", "delete", "collect"]), at=AT)
    def race(self, version: str, verb: str, at: int) -> None:
        """Another process moves the pointer or puts a version away in the middle of an activation."""
        self.calls += 1
        reason = f"call {self.calls}"
        arguments: dict[str, list[Any]] = {"collect": [], "policy": [{"keep_previous_s": float(self.calls)}]}

        def happening() -> None:
            self.attempt("second", "none", 0, verb, *arguments.get(verb, [version]))

        interrupted: Any = Interrupted(self.store, at, happening)
        self.run(self.open("first", interrupted), "first", reason, "activate", "1" if version == "2" else "2")
        self.open("first")

    @rule(who=WHO, version=VERSIONS)
    def refuse(self, who: str, version: str) -> None:
        """I20: a refusal moves nothing, and keeps its report."""
        before = self.files()
        self.outcome = "refused"
        came = self.attempt(who, "none", 0, "activate", version)
        self.outcome = "passed"
        after = self.files()
        assert slots_of(after) == slots_of(before)
        if isinstance(came, ActivationRefused):
            fresh = [data for key, data in after.items() if key.startswith("models/m/checks/") and key not in before]
            assert len(fresh) == 1 and json.loads(fresh[0])["accepted"] is False

    @rule(name=st.sampled_from(["../x", "a/b", ".hidden", "A", "con", "a" * 64, "1\n"]))
    def ask_with_a_hostile_name(self, name: str) -> None:
        """I11: what is no name never becomes a key."""
        before = self.files()
        for verb in (
            lambda: self.open().publish("m", name, self.place / "1"),
            lambda: self.open().publish(name, "1", self.place / "1"),
            lambda: self.open().alias("m", name, "1"),
        ):
            with pytest.raises(InvalidName):
                verb()
        assert self.files() == before

    @rule(who=WHO)
    def run_it_again(self, who: str) -> None:
        """I18: whatever became of the last verb, running it again needs no repair: it succeeds, or says why not."""
        if self.last_verb is not None:
            verb, arguments, options = self.last_verb
            came = self.attempt(who, "none", 0, verb, *arguments, **options)
            assert not isinstance(came, StorageError | DamagedLog), came

    # What must hold

    def files(self) -> dict[str, bytes]:
        assert isinstance(self.store, MemoryStore)
        return {key: found[0] for key, found in self.store._files.items()}

    def copy_of(self, files: dict[str, bytes]) -> tuple[Registry, MemoryStore]:
        """Return a registry on a copy of the files, which a check may damage."""
        store = memory_store_of(tuple(files.items()))
        registry = Registry(self.place / "x", cache_dir=self.place / "cache-copies")
        registry.workspace.store = store
        return registry, store

    def heads(self) -> list[Head[ModelRecord]]:
        return list(reversed(list(self.open().workspace.model_ledger("m").records())))

    @invariant()
    @when_changed
    def i1_what_is_in_a_slot_never_changes(self, files: dict[str, bytes]) -> None:
        found = slots_of(files)
        known = self.last_looks.get("i1_what_is_in_a_slot_never_changes")
        if known is not None:
            assert found[: len(slots_of(known))] == slots_of(known)

    @invariant()
    @when_changed
    def i2_every_record_is_whole(self, files: dict[str, bytes]) -> None:
        for data in slots_of(files):
            parse_document(ModelRecord, data, limit_bytes=1 << 16)

    @invariant()
    @when_changed
    def i3_log_is_dense_and_chained(self, files: dict[str, bytes]) -> None:
        keys = sorted(key for key in files if key.startswith(LOG))
        assert keys == [layout.slot(SUBJECT, seq) for seq in range(1, len(keys) + 1)]
        before = "0" * 64
        for data in slots_of(files):
            assert json.loads(data)["prev"] == before
            before = digest_bytes(data)

    @invariant()
    @when_changed
    def i4_record_is_there_exactly_when_it_was_acknowledged(self, files: dict[str, bytes]) -> None:
        reasons = [json.loads(data).get("reason") for data in slots_of(files)]
        for reason, seq in self.acknowledged.items():
            assert reasons[seq - 1] == reason
        for reason in self.refused:
            assert reason not in reasons
        named = [reason for reason in reasons if reason is not None]
        assert len(named) == len(set(named)), "written twice"

    @invariant()
    def i5_every_record_was_decided_on_the_one_before_it(self) -> None:
        found = slots_of(self.files())
        for data in found[len(self.slots) :]:
            record = ModelRecord.model_validate_json(data)
            self.plain = self.plain.after(record)
            assert (difference := self.plain.differs_from(record.state)) is None, difference
        self.slots = found

    @invariant()
    @when_changed
    def i6_head_is_found_whatever_the_hints_say(self, files: dict[str, bytes]) -> None:
        count = len(slots_of(files))
        for who in ("first", "second"):
            head = self.open(who).head("m")
            assert (head.seq if head else 0) == count
        for hint in ("none", "stale", "too high", "garbage"):
            registry, store = self.copy_of(files)
            forge(store, hint, count)
            head = registry.head("m")
            assert (head.seq if head else 0) == count, hint

    @invariant()
    @when_changed
    def i7_damage_is_found(self, files: dict[str, bytes]) -> None:
        count = len(slots_of(files))
        for seq in {1, (count + 1) // 2, count} if count else ():
            key = layout.slot(SUBJECT, seq)
            registry, store = self.copy_of(files)
            store.replace(key, files[key].replace(b'"actor"', b'"Actor"', 1))
            with pytest.raises(DamagedLog):
                list(registry.workspace.model_ledger("m").records())
            if seq < count:
                registry, store = self.copy_of(files)
                store.delete(key)
                with pytest.raises(DamagedLog):
                    list(registry.workspace.model_ledger("m").records(newest=count))

    @invariant()
    @when_changed
    def i8_unknown_fields_survive(self, files: dict[str, bytes]) -> None:
        fields: set[str] = set()
        for data in slots_of(files):
            state = json.loads(data)["state"]
            assert fields <= set(state)
            fields |= {"quota", "owner"} & set(state)

    @invariant()
    @when_changed
    def i9_unknown_feature_stops_reader_and_writer(self, files: dict[str, bytes]) -> None:
        if not (slots := slots_of(files)):
            return
        tree = json.loads(slots[-1]) | {"requires": ["later"], "seq": len(slots) + 1, "prev": digest_bytes(slots[-1])}
        registry, store = self.copy_of(files)
        store.create(layout.slot(SUBJECT, len(slots) + 1), json.dumps(tree).encode())
        with pytest.raises(UnknownFeature):
            registry.head("m")
        with pytest.raises(UnknownFeature):
            registry.policy("m", {"replicas": 9})

    @invariant()
    @when_changed
    def i10_part_of_a_record_is_refused_as_a_whole(self, files: dict[str, bytes]) -> None:
        for data in slots_of(files)[-1:]:
            for cut in (0, 1, len(data) // 2, len(data.rstrip()) - 1):
                with pytest.raises(InvalidDocument):
                    parse_document(ModelRecord, data[:cut], limit_bytes=1 << 16)

    @invariant()
    @when_changed
    def i11_every_key_is_made_of_names(self, files: dict[str, bytes]) -> None:
        for key in files:
            segments = key.split("/")
            assert all(segments) and ".." not in segments
            if segments[0] == "models":
                assert name_problem(segments[1]) is None
            if segments[0] == "models" and segments[2] == "versions" and not segments[3].startswith(".staging-"):
                assert name_problem(segments[3]) is None

    def views(self) -> list[Any]:
        try:
            return self.open().versions("m")
        except NotFound:
            return []

    @invariant()
    @when_changed
    def i12_complete_means_that_every_listed_file_is_there(self, files: dict[str, bytes]) -> None:
        for view in self.views():
            if view.state == "complete":
                for entry in view.manifest.files:
                    assert len(files[f"models/m/versions/{view.version}/{entry.path}"]) == entry.size

    @invariant()
    @when_changed
    def i13_incoming_is_shown_with_what_is_missing_and_never_used(self, files: dict[str, bytes]) -> None:
        for view in self.views():
            assert view.state in ("complete", "incoming", "purged", "broken"), view
            if view.state == "incoming":
                assert view.missing and not (view.is_active or view.is_pinned or view.aliases)
                with pytest.raises(StoredDataError):
                    self.open().materialise("m", view.version)

    @invariant()
    @when_changed
    def i14_what_is_handed_out_is_what_the_record_names(self, files: dict[str, bytes]) -> None:
        for view in self.views():
            if view.state != "complete":
                continue
            fresh = Registry(self.place / "x", cache_dir=self.place / "cache-to-look")
            fresh.workspace.store = self.store
            copy = fresh.materialise("m", view.version)
            with copy.lease:
                self.require_listed_bytes(copy.path, copy.manifest)
                assert (copy.path / "weights").read_text() == f"weights of {view.version}"
            assert self.contents.get(view.version, copy.manifest_digest) == copy.manifest_digest
        shutil.rmtree(self.place / "cache-to-look", ignore_errors=True)

    def require_listed_bytes(self, path: Path, manifest: Any) -> None:
        """I14 and I15: a private copy holds the listed files with their digests, and nothing else."""
        there = {one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()}
        there.pop("manifest.json", None)
        assert {name: digest_bytes(data) for name, data in there.items()} == {
            entry.path: entry.sha256 for entry in manifest.files
        }

    @invariant()
    @when_changed
    def i15_extra_files_are_mentioned_and_not_listed(self, files: dict[str, bytes]) -> None:
        for view in self.views():
            is_there = f"models/m/versions/{view.version}/extra.pkl" in files
            listed = view.manifest is not None and any(one.path == "extra.pkl" for one in view.manifest.files)
            assert not listed
            if view.state == "complete":
                assert view.extra == (["extra.pkl"] if is_there else [])

    @invariant()
    @when_changed
    def i17_version_never_stands_for_other_content(self, files: dict[str, bytes]) -> None:
        for data in slots_of(files):
            record = ModelRecord.model_validate_json(data)
            state = record.state
            named = [state.active, state.previous, *state.aliases.values(), *state.pins, record.evidence]
            for one in named:
                if one is not None and one.version is not None and one.manifest is not None:
                    assert self.contents.setdefault(one.version, one.manifest) == one.manifest
        for version, digest in self.contents.items():
            assert digest_bytes(files[f"models/m/versions/{version}/manifest.json"]) == digest

    @invariant()
    @when_changed
    def i18_nothing_is_left_half_done_that_matters(self, files: dict[str, bytes]) -> None:
        for finding in self.open().verify().findings:
            left_there = "not in the manifest" in finding.message or finding.message == "link is a link"
            assert finding.severity != "error" or left_there, finding

    @invariant()
    @when_changed
    def i19_pointer_moves_only_with_verdicts_about_its_manifest(self, files: dict[str, bytes]) -> None:
        active = None
        for data in slots_of(files):
            record = ModelRecord.model_validate_json(data)
            if record.state.active != active:
                assert record.op in ("activate", "rollback") and record.state.active is not None
                assert record.evidence.manifest == record.state.active.manifest
                assert record.evidence.verdicts and not any(one.is_refusal for one in record.evidence.verdicts)
                assert record.evidence.report is not None
                assert digest_bytes(files[record.evidence.report.key]) == record.evidence.report.sha256
            active = record.state.active

    @invariant()
    @when_changed
    def i20_report_of_every_run_of_the_hooks_stays(self, files: dict[str, bytes]) -> None:
        known = self.last_looks.get("i20_report_of_every_run_of_the_hooks_stays", {})
        for key, data in known.items():
            if key.startswith("models/m/checks/"):
                assert files[key] == data

    @invariant()
    @when_changed
    def i21_what_was_inherited_stays_with_the_pointer(self, files: dict[str, bytes]) -> None:
        for data in slots_of(files):
            state = ModelRecord.model_validate_json(data).state
            for pointer in (state.active, state.previous, *state.aliases.values(), *state.pins):
                if pointer is not None:
                    known = self.inherited.setdefault((pointer.version, pointer.seq), pointer.inherited)
                    assert pointer.inherited == known
                    assert ("wrapper" in pointer.inherited) == (pointer.version == "3")

    @invariant()
    @when_changed
    def i22_tombstone_is_there_before_a_payload_file_goes(self, files: dict[str, bytes]) -> None:
        for version in self.contents:
            folder = f"models/m/versions/{version}"
            listed = [one["path"] for one in json.loads(files[f"{folder}/manifest.json"])["files"]]
            if any(f"{folder}/{path}" not in files for path in listed):
                assert f"{folder}/tombstone.json" in files

    @invariant()
    @when_changed
    def i23_staging_or_claim_is_never_part_of_a_version(self, files: dict[str, bytes]) -> None:
        for view in self.views():
            names = [entry.path for entry in view.manifest.files] if view.manifest is not None else []
            assert not any(name.startswith((".staging-", ".claim-")) for name in [view.version, *names])

    @invariant()
    @when_changed
    def i24_every_record_keeps_to_the_schema_of_version_one(self, files: dict[str, bytes]) -> None:
        known = self.last_looks.get("i24_every_record_keeps_to_the_schema_of_version_one", {})
        for key, data in files.items():
            if key.startswith(LOG) and key not in known:
                SCHEMA.validate(json.loads(data))


def slots_of(files: dict[str, bytes]) -> list[bytes]:
    """Return the log, the first record first."""
    return [files[key] for key in sorted(files) if key.startswith(LOG)]


def forge(store: Store, hint: str, count: int) -> None:
    """Make ``active.json`` say something else."""
    key = layout.active_copy(SUBJECT)
    if hint == "none":
        store.delete(key)
    else:
        said = {"stale": max(1, count // 2), "too high": 10**15, "garbage": "\N{SNOWMAN}"}[hint]
        store.replace(key, json.dumps({"seq": said}).encode())


class LocalMachine(RegistryMachine):
    """The same on a real folder, where links can be."""

    def make_store(self) -> Store:
        return LocalStore(self.place / "registry")

    def files(self) -> dict[str, bytes]:
        root = self.place / "registry"
        found = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}

    @rule(version=VERSIONS)
    def leave_a_link(self, version: str) -> None:
        folder = self.place / "registry/models/m/versions" / version
        if folder.is_dir() and not (folder / "manifest.json").exists() and not (folder / "link").is_symlink():
            (folder / "link").symlink_to("/etc/passwd")

    @invariant()
    @when_changed
    def i16_link_is_never_followed(self, files: dict[str, bytes]) -> None:
        for view in self.views():
            folder = self.place / "registry/models/m/versions" / view.version
            if (folder / "link").is_symlink():
                assert view.state == "broken" and view.version not in self.contents
                with pytest.raises((DamagedVersion, IncompleteVersion)):
                    self.open().materialise("m", view.version)


def search(examples: int, steps: int, **options: Any) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks, **options
    )


RegistryMachine.TestCase.settings = search(12, 15)
LocalMachine.TestCase.settings = search(3, 12)
TestRegistryMachine = RegistryMachine.TestCase
TestLocalMachine = LocalMachine.TestCase


@pytest.mark.proof
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("machine", "examples"), [(RegistryMachine, scaled(100, 20_000)), (LocalMachine, scaled(20, 2000))]
)
def test_long_search_finds_nothing(machine: type[RegistryMachine], examples: int) -> None:
    run_state_machine_as_test(machine, settings=search(examples, 40))


def _believe_the_answer(ledger: Ledger[Any], seq: int, data: bytes) -> bool:
    return ledger.store.create(layout.slot(ledger.subject, seq), data)


def _write_no_tombstone(store: MemoryStore, key: str, data: bytes) -> bool:
    return True if key.endswith("tombstone.json") else _create(store, key, data)


_create = MemoryStore.create
_append = Ledger.append


def _decide_once(ledger: Ledger[Any], decide: Any, *, actor: str) -> Any:
    drafts: list[Any] = []

    def once(base: Any) -> Any:
        drafts.append(drafts[0] if drafts else decide(base))
        return drafts[0]

    return _append(ledger, once, actor=actor)


@pytest.mark.parametrize(
    ("where", "planted", "happens"),
    [
        ("clipperfs.ledger.Ledger._claim", _believe_the_answer, lambda one: one.policy("first", 3, "lost", -1)),
        ("clipperfs.ledger.Ledger.append", _decide_once, lambda one: one.race("1", "policy", -2)),
        (
            "clipperfs.store.memory.MemoryStore.create",
            _write_no_tombstone,
            lambda one: one.put_away_for_good("2", "none", 1),
        ),
        ("clipperfs.steer._require_unused", lambda *_: None, lambda one: one.delete("first", "1", False, "none", 1)),
        ("clipperfs.documents.record.Verdict.is_refusal", False, lambda one: one.refuse("first", "2")),
    ],
)
def test_planted_bug_is_found(
    where: str, planted: Any, happens: Callable[[RegistryMachine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for bug in (False, True):
        if bug:
            monkeypatch.setattr(where, planted)
        machine = RegistryMachine()
        try:
            machine.create(("1", "2"))
            check_all(machine)
            if bug:
                with pytest.raises(AssertionError):
                    happens(machine)
                    check_all(machine)
            else:
                happens(machine)
                check_all(machine)
        finally:
            machine.teardown()


def check_all(machine: RegistryMachine) -> None:
    """Check every invariant, in the order of their numbers."""
    found = [name for name in dir(machine) if name.startswith("i") and name[1:].partition("_")[0].isdigit()]
    assert len(found) == 23
    for name in sorted(found, key=lambda name: int(name[1:].partition("_")[0])):
        getattr(machine, name)()
