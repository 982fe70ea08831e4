"""Random verbs, plain copies, faults and crashes against a plain model of what a registry promises."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clipperfs import Registry, layout
from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import RegistryDocument, Verdict, canonical_bytes
from clipperfs.errors import ClipperfsError, StorageError
from clipperfs.names import ModelName, VersionName
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.fault_store import Crashed, FaultStore

VERSIONS = st.sampled_from(["1", "2", "3"])
FAULTS = st.sampled_from(["none", "none", "error", "crash", "crash-after", "lost"])


def _pass_all(request: CheckRequest) -> list[Verdict]:
    return [Verdict(hook=hook.name, outcome="passed") for hook in request.hooks]


class RegistryMachine(RuleBasedStateMachine):
    """Writers that fail at random points; a reader that must never see anything but the last state or the next."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(runner, "run_hooks", _pass_all)
        self.place = Path(tempfile.mkdtemp(prefix="cfs-machine-"))
        self.store = MemoryStore("machine")
        self.active: set[str | None] = {None}
        """What may be active: one version, or two when the last writer does not know what became of its record."""
        self.highest_seq = 0
        self.seen_digests: dict[int, str] = {}
        for version in ("1", "2", "3"):
            folder = self.place / version
            folder.mkdir()
            (folder / "weights").write_text(f"weights of {version}")
            (folder / "model.yaml").write_text("wrapper: noop\n")

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.place, ignore_errors=True)

    def open(self, fault: str = "none", at: int = 1) -> Registry:
        registry = Registry(self.place / "x", cache_dir=self.place / "cache", actor="machine")
        registry.workspace.store = (
            FaultStore(self.store, at=at, fault=fault) if fault != "none" else self.store  # type: ignore[arg-type]
        )
        return registry

    @initialize()
    def create(self) -> None:
        document = RegistryDocument(registry_id="r" * 16, created="-", created_by="-", store_class="memory")
        self.store.create(layout.REGISTRY, canonical_bytes(document))

    def attempt(self, registry: Registry, verb: str, *arguments: Any, **options: Any) -> bool:
        """Run a verb; say whether it certainly took effect."""
        try:
            getattr(registry, verb)(*arguments, **options)
        except (ClipperfsError, Crashed):
            return False
        return True

    @rule(version=VERSIONS, fault=FAULTS, at=st.integers(1, 30))
    def publish(self, version: str, fault: str, at: int) -> None:
        self.attempt(self.open(fault, at), "publish", "m", version, self.place / version)

    @rule(version=VERSIONS, part=st.sampled_from(["weights", "model.yaml"]), share=st.floats(0, 1))
    def copy_a_part(self, version: str, part: str, share: float) -> None:
        key = f"models/m/versions/{version}/{part}"
        if self.store.stat(layout.manifest(ModelName("m"), VersionName(version))) is None:
            data = (self.place / version / part).read_bytes()
            cut = self.place / "cut"
            cut.write_bytes(data[: round(len(data) * share)])
            self.store.upload(cut, key)

    @rule(version=VERSIONS, fault=FAULTS, at=st.integers(1, 30))
    def activate(self, version: str, fault: str, at: int) -> None:
        self.move(lambda: self.attempt(self.open(fault, at), "activate", "m", version), version)

    @rule(fault=FAULTS, at=st.integers(1, 20))
    def roll_back(self, fault: str, at: int) -> None:
        head = self.open().head("m")
        previous = head.record.state.previous if head else None
        self.move(lambda: self.attempt(self.open(fault, at), "rollback", "m"), previous.version if previous else None)

    def move(self, verb: Any, goal: str | None) -> None:
        before = self.read_active()
        if verb():
            self.active = {goal}
        else:
            self.active = {before, goal}

    @rule(replicas=st.integers(0, 5), fault=FAULTS, at=st.integers(1, 10))
    def policy(self, replicas: int, fault: str, at: int) -> None:
        self.attempt(self.open(fault, at), "policy", "m", {"replicas": replicas})

    @rule(version=VERSIONS, verb=st.sampled_from(["retire", "delete"]), undo=st.booleans(), at=st.integers(1, 20))
    def put_away(self, version: str, verb: str, undo: bool, at: int) -> None:
        option = {"undo": undo} if verb == "retire" else {"restore": undo}
        self.attempt(self.open("lost", at), verb, "m", version, **option)

    @precondition(lambda self: self.highest_seq > 0)
    @rule(fault=FAULTS, at=st.integers(1, 25))
    def collect(self, fault: str, at: int) -> None:
        self.attempt(self.open(), "policy", "m", {"grace_s": 0})
        self.attempt(self.open(fault, at), "collect")

    def read_active(self) -> str | None:
        head = self.open().head("m")
        return head.record.state.active.version if head and head.record.state.active else None

    @invariant()
    def history_is_dense_chained_and_never_rewritten(self) -> None:
        registry = self.open()
        try:
            records = list(registry.workspace.model_ledger("m").records())
        except ClipperfsError as error:
            if isinstance(error, StorageError) or "no registry" in str(error):
                return
            raise
        assert [head.seq for head in records] == list(range(len(records), 0, -1))
        assert len(records) >= self.highest_seq
        for head in records:
            assert self.seen_digests.setdefault(head.seq, head.digest) == head.digest
        self.highest_seq = len(records)

    @invariant()
    def active_version_is_the_last_one_moved_to_and_verifies(self) -> None:
        if self.store.stat(layout.REGISTRY) is None:
            return
        active = self.read_active()
        assert active in self.active
        self.active = {active}
        if active is not None:
            copy = Registry.materialise(self.open(), "m", active)
            with copy.lease:
                assert (copy.path / "weights").read_text() == f"weights of {active}"

    @invariant()
    def what_is_complete_can_be_handed_out(self) -> None:
        if self.store.stat(layout.REGISTRY) is None or not self.open().models():
            return
        for view in self.open().versions("m"):
            assert view.state in ("complete", "incoming", "purged"), view
            if view.state == "complete":
                copy = Registry(self.place / "x", cache_dir=self.place / "fresh")
                copy.workspace.store = self.store
                with copy.materialise("m", view.version).lease:
                    pass


RegistryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
