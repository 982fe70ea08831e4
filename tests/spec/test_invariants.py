"""The invariants of ``registry_layout.md`` §9 that rest on a whole registry, on a real filesystem."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from clipperfs import Registry, layout
from clipperfs.adopt import assess
from clipperfs.collect import collect
from clipperfs.digest import digest_bytes
from clipperfs.documents import Verdict
from clipperfs.errors import (
    ActivationRefused,
    ClipperfsError,
    Conflict,
    DamagedLog,
    DamagedVersion,
    IncompleteVersion,
    StoredDataError,
    UnknownFeature,
)
from clipperfs.names import model_name
from clipperfs.source import write_manifest
from clipperfs.store.local import LocalStore
from clipperfs.testing.fault_store import FaultStore

FILES = {"a.bin": b"first", "sub/b.bin": b"second file", "model.yaml": b"wrapper: noop\ninput_type: doubles\n"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return where the registry lies."""
    return tmp_path / "registry"


@pytest.fixture
def registry(root: Path, tmp_path: Path) -> Registry:
    """Return a fresh registry."""
    return Registry.init(root, cache_dir=tmp_path / "cache", actor="test@here")


def write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """Write files into a folder, and return it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def seq_of(registry: Registry) -> int:
    """Return the number of the newest record of the model."""
    head = registry.head("digits")
    return head.seq if head else 0


def active_of(registry: Registry) -> str | None:
    """Return the active version's name."""
    head = registry.head("digits")
    return head.record.state.active.version if head and head.record.state.active else None


def pass_hooks(monkeypatch: pytest.MonkeyPatch, outcome: Any = "passed") -> list[str]:
    """Let every hook answer at once; return the list into which the manifests go that they were asked about."""
    seen: list[str] = []

    def run(request: Any) -> list[Verdict]:
        seen.append(request.candidate.manifest_digest)
        return [Verdict(hook=hook.name, outcome=outcome, reason="as asked") for hook in request.hooks]

    monkeypatch.setattr("clipperfs.checking.runner.run_hooks", run)
    return seen


def edit(path: Path, **fields: Any) -> None:
    """Change top-level fields of a JSON file in place, as a forger would."""
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


# Slots


def test_one_of_many_writers_takes_a_slot_and_its_bytes_stay(root: Path) -> None:
    for round_number in range(20):
        barrier = threading.Barrier(8)
        won: list[int] = []
        key = f"models/digits/log/{round_number + 1:020d}.json"

        def claim(number: int, key: str = key, barrier: threading.Barrier = barrier, won: list[int] = won) -> None:
            barrier.wait()
            if LocalStore(root).create(key, f"by {number}".encode()):
                won.append(number)

        threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert (root / key).read_bytes() == f"by {won[0]}".encode()
        assert not LocalStore(root).create(key, b"late")
        assert (root / key).read_bytes() == f"by {won[0]}".encode()
    assert not [name for name in os.listdir(root / "models/digits/log") if name.startswith(".claim-")]


READER = """
import sys, time
root, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torn, end = 0, time.monotonic() + 60
print("ready", flush=True)
for number in range(count):
    while time.monotonic() < end:
        try:
            with open(f"{root}/log/{number}", "rb") as stream:
                torn += len(stream.read()) != size
            break
        except FileNotFoundError:
            pass
print(torn)
"""
"""Reads each slot at the very moment when its name appears."""


def test_reader_never_sees_part_of_a_slot(root: Path) -> None:
    store, data, count = LocalStore(root), b"x" * 2_000_000, 30
    command = [sys.executable, "-c", READER, str(root), str(count), str(len(data))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for number in range(count):
            assert store.create(f"log/{number}", data)
        assert reader.stdout.read() == "0\n"


WRITER = """
import os, sys
from clipperfs.store.local import LocalStore
opened = []
sys.addaudithook(lambda event, values: opened.append(values) if event == "open" else None)
assert LocalStore(sys.argv[1]).create("log/1", b"whole")
writing = os.O_WRONLY | os.O_RDWR
print([path for path, mode, flags in opened if str(path).endswith("log/1") and flags & writing])
"""


def test_slot_is_never_opened_for_writing_under_its_own_name(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (root / "log/1").read_bytes() == b"whole"


def test_log_is_dense_and_chained_after_every_verb(registry: Registry, root: Path, tmp_path: Path) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    registry.publish("digits", "2", write(tmp_path / "two", {**FILES, "a.bin": b"other"}))
    registry.policy("digits", {"replicas": 2})
    registry.retire("digits", "2")
    registry.retire("digits", "2", undo=True)
    registry.delete("digits", "2")
    log = root / "models/digits/log"
    names = sorted(os.listdir(log))
    assert names == [f"{number:020d}.json" for number in range(1, len(names) + 1)]
    before = "0" * 64
    for name in names:
        data = (log / name).read_bytes()
        assert json.loads(data)["prev"] == before
        before = digest_bytes(data)
    assert len(registry.history("digits")) == len(names) == 6


@pytest.mark.parametrize(
    "damage",
    ["edit", "remove", "swap", "foreign registry", "other model", "insert", "truncate", "folder", "link"],
)
def test_damage_inside_a_log_is_found_and_never_served_around(
    registry: Registry, root: Path, tmp_path: Path, damage: str
) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    for number in (2, 3, 4):
        registry.policy("digits", {"replicas": number})
    log = root / "models/digits/log"
    path = {number: log / f"{number:020d}.json" for number in range(1, 6)}
    if damage == "edit":
        edit(path[2], reason="it was never so")
    elif damage == "remove":
        path[2].unlink()
    elif damage == "swap":
        two, three = path[2].read_bytes(), path[3].read_bytes()
        path[2].write_bytes(three)
        path[3].write_bytes(two)
    elif damage == "foreign registry":
        edit(path[4], registry_id="f" * 32)
    elif damage == "other model":
        edit(path[4], model="other")
    elif damage == "insert":
        edit(path[4])
        shutil.copy(path[3], path[5])
    elif damage == "truncate":
        path[4].write_bytes(path[4].read_bytes()[:-20])
    elif damage == "folder":
        path[4].unlink()
        path[4].mkdir()
    else:
        aside = root / "aside.json"
        path[4].rename(aside)
        path[4].symlink_to(aside)
    fresh = Registry(root, cache_dir=tmp_path / "cache")
    assert not fresh.verify().ok
    with pytest.raises(StoredDataError):
        fresh.history("digits")
    if damage in ("foreign registry", "other model", "insert", "truncate", "folder", "link"):
        with pytest.raises(DamagedLog):
            fresh.head("digits")
        with pytest.raises(StoredDataError):
            fresh.policy("digits", {"replicas": 9})


def test_record_beyond_a_gap_is_no_head_and_is_found(registry: Registry, root: Path, tmp_path: Path) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    log = root / "models/digits/log"
    shutil.copy(log / f"{1:020d}.json", log / f"{9:020d}.json")
    assert Registry(root, cache_dir=tmp_path / "cache").head("digits") == registry.head("digits")
    assert [finding.message for finding in registry.verify().findings] == [
        "record 9 lies outside the chain, which ends at 1"
    ]


def test_forged_hints_change_nothing(registry: Registry, root: Path, tmp_path: Path) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    registry.policy("digits", {"replicas": 2})
    truth = registry.head("digits")
    forged = {"seq": 1, "state": {"active": {"version": "9", "manifest": "0" * 64, "seq": 1}}}
    for data in [json.dumps(forged).encode(), b'{"seq": 9007199254740991}', b'{"seq": 1e400}', b"\xff", b"[" * 9999]:
        (root / "models/digits/active.json").write_bytes(data)
        assert Registry(root, cache_dir=tmp_path / "cache").head("digits") == truth
    (root / "models/digits/active.json").unlink()
    shutil.rmtree(root / "changes")
    assert Registry(root, cache_dir=tmp_path / "cache").head("digits") == truth
    (root / "changes").write_bytes(b"not even a folder")
    assert registry.policy("digits", {"replicas": 3}).changed


def test_unknown_feature_stops_the_reader_and_the_writer(registry: Registry, root: Path, tmp_path: Path) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    newest = root / "models/digits/log/00000000000000000001.json"
    edit(newest, requires=["time-travel"])
    with pytest.raises(UnknownFeature, match="time-travel"):
        registry.head("digits")
    with pytest.raises(UnknownFeature):
        registry.policy("digits", {"replicas": 2})
    assert len(os.listdir(newest.parent)) == 1
    edit(root / "registry.json", required_features=["time-travel"])
    with pytest.raises(UnknownFeature, match="time-travel"):
        Registry(root, cache_dir=tmp_path / "cache").models()


# Versions


def test_version_is_whole_only_when_everything_has_arrived_in_any_order(root: Path, tmp_path: Path) -> None:
    store = LocalStore(root)
    source = write(tmp_path / "source")
    write_manifest(source, wrapper=None, actor="test")
    data = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    data["READY"] = b""
    folder = "models/digits/versions/1"

    def state() -> str:
        return assess(store.walk(folder), store.read(f"{folder}/manifest.json", limit_bytes=1 << 20)).state

    for order in itertools.permutations(data):
        shutil.rmtree(root / folder, ignore_errors=True)
        for position, name in enumerate(order):
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if data[name]:
                path.write_bytes(data[name][:-1])
                assert state() == "incoming", (order, name)
            path.write_bytes(data[name])
            is_whole = set(order[: position + 1]) >= data.keys() - {"READY"}
            assert state() == ("complete" if is_whole else "incoming"), (order, name)


@pytest.mark.parametrize("end", [b"", b" ", b"\n\n", b" \n"])
def test_manifest_without_its_last_line_feed_counts_as_cut_short(
    registry: Registry, root: Path, tmp_path: Path, end: bytes
) -> None:
    source = write(tmp_path / "source")
    manifest, _ = write_manifest(source, wrapper=None, actor="test")
    copy = root / "models/digits/versions/1"
    shutil.copytree(source, copy)
    (copy / "manifest.json").write_bytes(manifest.read_bytes()[:-1] + end)
    assert registry.show_version("digits", "1").state == "incoming"
    shutil.copy(manifest, copy)
    assert registry.show_version("digits", "1").state == "complete"


def test_incoming_version_is_listed_with_what_is_missing_and_never_used(
    registry: Registry, root: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "source")
    write_manifest(source, wrapper=None, actor="test")
    copy = root / "models/digits/versions/1"
    shutil.copytree(source, copy)
    (copy / "sub/b.bin").write_bytes(b"sec")
    (copy / "a.bin").unlink()
    view = registry.show_version("digits", "1")
    assert view.state == "incoming"
    assert view.missing == ["a.bin", "sub/b.bin (3 of 11 bytes)"]
    for use in (registry.activate, registry.materialise, registry.seal):
        with pytest.raises(IncompleteVersion, match=r"a\.bin"):
            use("digits", "1")
    assert registry.verify().ok, "a copy that is going on is no damage"


def test_copy_with_its_full_size_but_not_yet_its_bytes_is_not_adopted(
    registry: Registry, root: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "source")
    write_manifest(source, wrapper=None, actor="test")
    copy = root / "models/digits/versions/1"
    shutil.copytree(source, copy)
    (copy / "sub/b.bin").write_bytes(b"\x00" * len(FILES["sub/b.bin"]))
    with pytest.raises(IncompleteVersion, match=r"sub/b\.bin"):
        registry.seal("digits", "1")
    assert registry.head("digits") is None
    (copy / "sub/b.bin").write_bytes(FILES["sub/b.bin"])
    assert registry.seal("digits", "1").was_there


@pytest.mark.parametrize("name", sorted(FILES))
def test_changed_byte_is_found_before_anything_is_loaded(
    registry: Registry, root: Path, tmp_path: Path, name: str
) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    path = root / "models/digits/versions/1" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DamagedVersion, match=name):
        registry.materialise("digits", "1")
    with pytest.raises(DamagedVersion, match=name):
        registry.activate("digits", "1")
    assert [finding.severity for finding in registry.verify().findings] == ["error"]


def test_replaced_manifest_is_refused(registry: Registry, root: Path, tmp_path: Path) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    registry.publish("digits", "2", write(tmp_path / "two", {**FILES, "a.bin": b"other"}))
    one, two = (root / "models/digits/versions" / name for name in "12")
    aside = root / "aside"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    for version in "12":
        for use in (registry.activate, registry.materialise):
            with pytest.raises(DamagedVersion, match="not the one that was recorded"):
                use("digits", version)
    with pytest.raises(Conflict):
        registry.seal("digits", "1")
    assert not registry.verify().ok


def test_file_that_the_manifest_does_not_list_is_never_materialised(
    registry: Registry, root: Path, tmp_path: Path
) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    copy = root / "models/digits/versions/1"
    (copy / "sitecustomize.py").write_text("raise SystemExit")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__/x.pyc").write_bytes(b"x")
    assert registry.show_version("digits", "1").extra == ["__pycache__/x.pyc", "sitecustomize.py"]
    with registry.materialise("digits", "1").lease:
        private = registry.materialise("digits", "1").path
    found = {path.relative_to(private).as_posix() for path in private.rglob("*") if path.is_file()}
    assert found == set(FILES)


@pytest.mark.parametrize("kind", ["link", "folder link", "dangling link", "fifo", "listed link"])
def test_link_or_special_file_is_never_followed(registry: Registry, root: Path, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(FILES["a.bin"])
    registry.publish("digits", "1", write(tmp_path / "one"))
    copy = root / "models/digits/versions/1"
    if kind == "link":
        (copy / "more").symlink_to(secret)
    elif kind == "folder link":
        (copy / "more").symlink_to(tmp_path)
    elif kind == "dangling link":
        (copy / "more").symlink_to(tmp_path / "nowhere")
    elif kind == "fifo":
        os.mkfifo(copy / "more")
    else:
        (copy / "a.bin").unlink()
        (copy / "a.bin").symlink_to(secret)
    assert registry.show_version("digits", "1").state == "broken"
    with pytest.raises(DamagedVersion):
        registry.materialise("digits", "1")
    (root / "models/digits/versions/2").mkdir()
    os.mkfifo(root / "models/digits/versions/2/pipe")
    with pytest.raises(DamagedVersion):
        registry.seal("digits", "2")


def test_version_name_never_stands_for_other_content(registry: Registry, root: Path, tmp_path: Path) -> None:
    one, other = write(tmp_path / "one"), write(tmp_path / "other", {**FILES, "a.bin": b"other"})
    first = registry.publish("digits", "1", one)
    again = registry.publish("digits", "1", one)
    assert again.was_there
    assert again.manifest_digest == first.manifest_digest
    assert seq_of(registry) == 1
    with pytest.raises(Conflict, match="other content"):
        registry.publish("digits", "1", other)
    registry.delete("digits", "1")
    collect(registry.workspace, now_unix_s=4e9)
    for source in (one, other):
        with pytest.raises(Conflict, match="deleted"):
            registry.publish("digits", "1", source)
    write(root / "models/digits/versions/1")
    with pytest.raises(ClipperfsError, match="deleted"):
        registry.seal("digits", "1")


def test_tombstone_comes_before_the_first_deletion(registry: Registry, root: Path, tmp_path: Path) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))
    registry.delete("digits", "1")
    recording = FaultStore(registry.store)
    registry.workspace.store = recording
    collect(registry.workspace, now_unix_s=4e9)
    calls = [call for call in recording.calls if call[0] in ("create", "delete") and "versions" in call[1]]
    tombstone = ("create", "models/digits/versions/1/tombstone.json")
    assert calls[0] == tombstone
    assert sorted(calls[1:]) == [("delete", f"models/digits/versions/1/{name}") for name in sorted(FILES)]
    assert sorted(os.listdir(root / "models/digits/versions/1")) == ["manifest.json", "sub", "tombstone.json"]
    assert registry.show_version("digits", "1").state == "purged"
    assert registry.verify().ok
    assert [record.op for record in registry.history("digits")][-2:] == ["delete", "publish"]


def test_staging_is_never_taken_for_a_version(registry: Registry, root: Path, tmp_path: Path) -> None:
    write(root / layout.versions(model_name("digits")) / ".staging-0123456789abcdef")
    write(root / "models/digits/versions/Bad Name")
    assert registry.versions("digits") == []
    assert len(registry.show("digits").ignored) == 1
    assert registry.verify().ok


def test_claim_of_another_writer_is_not_sealed_into_a_version(registry: Registry, root: Path) -> None:
    copy = write(root / "models/digits/versions/1")
    (copy / ".claim-0123456789abcdef").write_bytes(b"{}")
    published = registry.seal("digits", "1")
    assert published.size_bytes == sum(map(len, FILES.values()))
    (copy / ".claim-0123456789abcdef").unlink()
    assert registry.verify().ok


# The active pointer


def test_pointer_moves_only_by_a_record_with_verdicts_about_the_same_manifest(
    registry: Registry, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = pass_hooks(monkeypatch)
    registry.publish("digits", "1", write(tmp_path / "one"))
    registry.publish("digits", "2", write(tmp_path / "two", {**FILES, "a.bin": b"other"}))
    assert active_of(registry) is None, "publishing is not activating"
    registry.activate("digits", "1")
    registry.activate("digits", "2")
    registry.rollback("digits")
    moves = [record for record in registry.history("digits") if record.op in ("activate", "rollback")]
    assert len(moves) == len(seen) == 3
    for record, manifest in zip(reversed(moves), seen, strict=True):
        assert record.state.active is not None
        assert record.state.active.manifest == record.evidence.manifest == manifest
        assert record.state.active.seq == record.seq
        assert {"integrity", "loadable"} <= {verdict.hook for verdict in record.evidence.verdicts}
        assert not any(verdict.is_refusal for verdict in record.evidence.verdicts)
        report = record.evidence.report
        assert report is not None
        assert digest_bytes((root / report.key).read_bytes()) == report.sha256
    assert active_of(registry) == "1"


@pytest.mark.parametrize("outcome", ["refused", "error", "timeout"])
def test_refusal_keeps_the_pointer_and_the_evidence(
    registry: Registry, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    pass_hooks(monkeypatch)
    registry.publish("digits", "1", write(tmp_path / "one"))
    registry.activate("digits", "1")
    second = registry.publish("digits", "2", write(tmp_path / "two", {**FILES, "a.bin": b"other"}))
    before = seq_of(registry)
    pass_hooks(monkeypatch, outcome)
    with pytest.raises(ActivationRefused):
        registry.activate("digits", "2")
    assert (active_of(registry), seq_of(registry)) == ("1", before)
    [report] = (root / "models/digits/checks" / second.manifest_digest).iterdir()
    assert json.loads(report.read_bytes())["accepted"] is False


def test_pointer_does_not_move_when_it_moved_while_the_hooks_ran(
    registry: Registry, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_hooks(monkeypatch)
    registry.publish("digits", "1", write(tmp_path / "one"))
    registry.publish("digits", "2", write(tmp_path / "two", {**FILES, "a.bin": b"other"}))
    rival = Registry(root, cache_dir=tmp_path / "cache", actor="rival")

    def run(request: Any) -> list[Verdict]:
        with contextlib.suppress(RecursionError):
            pass_hooks(monkeypatch)
            rival.activate("digits", "2")
        return [Verdict(hook="integrity", outcome="passed")]

    monkeypatch.setattr("clipperfs.checking.runner.run_hooks", run)
    with pytest.raises(Conflict, match="rival") as caught:
        registry.activate("digits", "1")
    assert caught.value.fields["mine"]["version"] == "1"
    assert caught.value.fields["found"]["evidence"]["version"] == "2"
    assert active_of(registry) == "2"


def test_expected_number_holds_until_the_record_is_written(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.publish("digits", "1", write(tmp_path / "one"))

    def run(request: Any) -> list[Verdict]:
        registry.publish("digits", "2", write(tmp_path / "two", {**FILES, "a.bin": b"other"}))
        return [Verdict(hook="integrity", outcome="passed")]

    monkeypatch.setattr("clipperfs.checking.runner.run_hooks", run)
    with pytest.raises(Conflict, match="newest record of model digits is 2, not 1"):
        registry.activate("digits", "1", expect_seq=1)
    assert (active_of(registry), seq_of(registry)) == (None, 2)


def test_what_was_inherited_stays_with_the_pointer(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_hooks(monkeypatch)
    registry.publish("digits", "1", write(tmp_path / "one"))
    registry.activate("digits", "1")
    registry.publish("digits", "2", write(tmp_path / "two", {"a.bin": b"only weights"}))
    registry.activate("digits", "2")
    yaml = b"wrapper: {kind: noop, output: 1}\ninput_type: strings\n"
    registry.publish("digits", "3", write(tmp_path / "three", {"a.bin": b"3", "model.yaml": yaml}))
    record = registry.activate("digits", "3").record
    assert record is not None
    assert record.state.previous is not None
    assert record.state.previous.inherited == {"wrapper": {"kind": "noop"}, "input_type": "doubles"}
    back = registry.rollback("digits").record
    assert back is not None and back.state.active is not None
    assert back.state.active.version == "2"
