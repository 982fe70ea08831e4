"""How versions leave, and what else goes by its age: retire, delete, restore, purge, leftovers, sums of bytes."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from clipperfs import Registry, layout
from clipperfs.cli.root import clipperfs
from clipperfs.collect import CollectReport, Total
from clipperfs.documents import LoadedVersion, ReplicaStatus, ServedModel, canonical_bytes
from clipperfs.errors import Conflict, InvalidSetting, StorageError, StorageUnavailable
from tests.integration.conftest import write_version

DAY_S = 86_400.0


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / "registry", cache_dir=tmp_path / "cache", actor="ops@test", probe="skip")


def publish(registry: Registry, place: Path, *versions: str) -> None:
    for version in versions:
        registry.publish("m", version, write_version(place / f"source-{version}", version.encode() * 1000))


def root_of(registry: Registry) -> Path:
    return Path(registry.url.removeprefix("file://"))


def make_old(folder: Path, age_s: float) -> None:
    """Let everything below a folder be as old as that."""
    moment = time.time() - age_s
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (moment, moment), follow_symlinks=False)


def totals(report: CollectReport) -> dict[tuple[str, bool], tuple[int, int]]:
    return {(one.what, one.is_removed): (one.count, one.size_bytes) for one in report.totals}


def put_status(
    registry: Registry, *, clock_ahead_s: float = 0.0, age_s: float = 0.0, versions: tuple[str, ...]
) -> None:
    written = time.time() - age_s
    said = written + clock_ahead_s
    loaded = [LoadedVersion(version=version, manifest="0" * 64, state="draining") for version in versions]
    status = ReplicaStatus(
        replica="host-1",
        host="host",
        pid=1,
        software="x",
        time=datetime.fromtimestamp(said, UTC).isoformat(timespec="milliseconds"),
        expires_unix_s=said + 90,
        models={"m": ServedModel(applied_seq=1, active=None, versions=loaded)},
    )
    key = layout.replica_status("host-1")
    registry.store.replace(key, canonical_bytes(status))
    os.utime(root_of(registry) / key, (written, written))


def test_every_stage_of_leaving_is_in_the_sums(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "live", "old", "graced", "used", "gone")
    registry.retire("m", "old")
    for version in ("graced", "used", "gone"):
        registry.delete("m", version)
    put_status(registry, versions=("used",))

    before = registry.collect(dry_run=True)
    assert before.purged == [] and totals(before)["deleted versions, restorable", False][0] == 3
    registry.delete("m", "graced", restore=True)
    registry.policy("m", {"grace_s": 0})
    dry = registry.collect(dry_run=True)
    assert dry.purged == ["m/gone"]
    found = totals(dry)
    assert found["versions", False][0] == 2 and found["retired versions", False][0] == 1
    assert found["deleted versions, still in use", False][0] == 1
    assert found["deleted versions", True] == (1, dry.freed_bytes) and dry.freed_bytes > 4000
    assert found["records", False][0] == registry.history("m")[0].seq
    assert registry.show_version("m", "gone").state == "complete", "--dry-run removes nothing"
    wet = registry.collect()
    assert (wet.purged, wet.freed_bytes) == (dry.purged, dry.freed_bytes)
    assert registry.show_version("m", "gone").state == "purged"
    assert registry.verify().ok


def test_deleted_version_is_restored_before_the_purge_and_not_after(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    registry.delete("m", "1", reason="by mistake")
    registry.delete("m", "1", restore=True)
    registry.policy("m", {"grace_s": 0})
    assert registry.collect().purged == []
    registry.delete("m", "1")
    assert registry.collect().purged == ["m/1"]
    with pytest.raises(Conflict, match="has been deleted"):
        registry.delete("m", "1", restore=True)
    assert [record.op for record in registry.history("m")] == [
        "purged", "purge", "delete", "policy", "restore", "delete", "publish",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("clock_ahead_s", "age_s", "keeps"),
    [(0, 0, True), (0, 200, False), (-7200, 30, True), (7200, 200, True), (7200, DAY_S + 1, False)],
)
def test_status_keeps_a_version_while_any_clock_lets_it_hold(
    registry: Registry, tmp_path: Path, clock_ahead_s: float, age_s: float, keeps: bool
) -> None:
    publish(registry, tmp_path, "1")
    registry.policy("m", {"grace_s": 0})
    registry.delete("m", "1")
    put_status(registry, clock_ahead_s=clock_ahead_s, age_s=age_s, versions=("1",))
    report = registry.collect()
    assert (report.purged == []) is keeps
    assert any("replica host-1 has it loaded" in why for _, why in report.kept) is keeps


def test_copy_that_a_process_of_this_host_holds_keeps_the_version(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    copy = registry.materialise("m", "1")
    registry.policy("m", {"grace_s": 0})
    registry.delete("m", "1")
    [why] = [why for subject, why in registry.collect().kept if subject == "m/1"]
    assert "a process of this host uses its copy" in why
    copy.lease.release()
    assert registry.collect().purged == ["m/1"]


def test_orphans_go_only_when_somebody_says_so_and_by_age(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    versions = root_of(registry) / "models/m/versions"
    for name in ("fresh", "old", "older"):
        (versions / name / "sub").mkdir(parents=True)
        (versions / name / "sub" / "weights").write_bytes(b"x" * 500)
    make_old(versions / "old", 3 * DAY_S)
    make_old(versions / "older", 40 * DAY_S)
    report = registry.collect()
    assert report.stagings == [] and totals(report)["orphans", False] == (2, 1000)
    assert totals(report)["incoming versions", False] == (1, 500)
    assert registry.collect(orphan_age_s=30 * DAY_S).stagings == ["models/m/versions/older"]
    assert sorted(path.name for path in versions.iterdir()) == ["1", "fresh", "old"]
    with pytest.raises(InvalidSetting, match="may still be going on"):
        registry.collect(orphan_age_s=60.0)
    assert registry.verify().ok


def test_recorded_version_that_lost_its_manifest_is_no_orphan(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    folder = root_of(registry) / "models/m/versions/1"
    (folder / "manifest.json").unlink()
    make_old(folder, 100 * DAY_S)
    report = registry.collect(orphan_age_s=30 * DAY_S)
    assert report.stagings == [] and (folder / "weights.bin").exists()
    assert any("a record names it, but its manifest is gone" in why for _, why in report.kept)


def test_publish_in_place_that_was_abandoned_goes_after_a_day_claim_last(registry: Registry, tmp_path: Path) -> None:
    folder = root_of(registry) / "models/m/versions/1"
    folder.mkdir(parents=True)
    for name in (layout.PUBLISHING_FILE, "weights.bin", "model.yaml"):
        (folder / name).write_text(name)
    assert registry.collect().stagings == []
    make_old(folder, 2 * DAY_S)
    store = registry.store
    real, gone = store.delete, []

    def delete(key: str) -> None:
        gone.append(key.rpartition("/")[2])
        if len(gone) == 2:
            raise StorageUnavailable("the server is away")
        real(key)

    store.delete = delete  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        registry.collect()
    assert layout.PUBLISHING_FILE not in gone and (folder / layout.PUBLISHING_FILE).exists()
    store.delete = real  # type: ignore[method-assign]
    # What is left did not change: it is collected to its end by the next run.
    report = registry.collect()
    assert report.stagings == ["models/m/versions/1"] and not folder.exists()
    publish(registry, tmp_path, "1")
    assert registry.verify().ok


def test_claim_that_outlived_its_manifest_goes_alone(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    claim = root_of(registry) / "models/m/versions/1" / layout.PUBLISHING_FILE
    claim.write_text("x")
    make_old(claim.parent, 2 * DAY_S)
    assert registry.collect().stagings == [f"models/m/versions/1/{layout.PUBLISHING_FILE}"]
    assert registry.verify().ok


@pytest.mark.parametrize(("age_s", "goes"), [(0.0, False), (2 * DAY_S, True)])
def test_empty_staging_goes_by_the_age_of_its_folder(
    registry: Registry, tmp_path: Path, age_s: float, goes: bool
) -> None:
    publish(registry, tmp_path, "1")
    staging = root_of(registry) / "models/m/versions/.staging-00112233"
    staging.mkdir()
    make_old(staging, age_s)
    registry.collect()
    assert staging.exists() is not goes


def test_status_of_a_daemon_that_is_gone_for_a_day_goes(registry: Registry) -> None:
    put_status(registry, age_s=DAY_S, versions=())
    assert registry.collect().statuses == []
    put_status(registry, age_s=DAY_S + 100, versions=())
    assert registry.collect(dry_run=True).statuses == ["host-1"]
    assert registry.collect().statuses == ["host-1"]
    assert list(registry.store.list(layout.REPLICAS)) == []


def test_clock_that_runs_ahead_makes_nothing_look_old(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, tmp_path, "1")
    registry.delete("m", "1")
    staging = root_of(registry) / "models/m/versions/.staging-00112233"
    staging.mkdir()
    (staging / "weights").write_bytes(b"x")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 30 * DAY_S)
    report = registry.collect()
    assert (report.purged, report.stagings, report.hints) == ([], [], 0)
    assert staging.exists() and not list(root_of(registry).rglob(".claim-*"))


def test_model_with_a_damaged_log_is_left_alone_and_others_are_collected(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    registry.publish("n", "1", tmp_path / "source-1")
    registry.policy("m", {"grace_s": 0})
    registry.policy("n", {"grace_s": 0})
    registry.delete("m", "1")
    registry.delete("n", "1")
    (root_of(registry) / "models/m/log/00000000000000000002.json").write_bytes(b"{}")
    report = registry.collect()
    assert report.purged == ["n/1"]
    assert any(subject == "m" and "damaged" in why for subject, why in report.kept)


def test_gc_shows_bytes_by_class(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", "2")
    registry.policy("m", {"grace_s": 0})
    registry.delete("m", "2")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(clipperfs, ["--registry", registry.url, "gc", *arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    text = run("--dry-run")
    assert "would remove m/2" in text
    rows = {line.rsplit("  ", 1)[-1].strip(): line.split() for line in text.splitlines()}
    assert rows["versions"][2:4] == ["1", "kept"] and rows["deleted versions"][2:5] == ["1", "would", "remove"]
    document = json.loads(run("--dry-run", "--json"))
    assert {"what": "records", "count": 4, "is_removed": False}.items() <= next(
        one for one in document["totals"] if one["what"] == "records"
    ).items()
    assert document["freed_bytes"] == sum(one["size_bytes"] for one in document["totals"] if one["is_removed"])
    assert "freed" in run() and "deleted versions" not in run()
    assert CliRunner().invoke(clipperfs, ["--registry", registry.url, "gc", "--orphans", "2h"]).exit_code == 2


def test_report_adds_up() -> None:
    report = CollectReport()
    report.add("records", 10, count=2)
    report.add("records", 5)
    report.add("records", 7, removed=True)
    assert report.totals == [Total("records", 3, 15, False), Total("records", 1, 7, True)] and report.freed_bytes == 7
