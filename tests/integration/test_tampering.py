"""What was changed behind the registry's back is found, and never served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.errors import DamagedLog, DamagedVersion, IncompleteVersion
from tests.integration.conftest import write_version


def place(registry: Registry) -> Path:
    return Path(registry.url.removeprefix("file://"))


@pytest.mark.parametrize("change", ["flip", "append", "truncate", "remove", "extra"])
def test_changed_payload_is_found_by_verify_and_refused(registry: Registry, folder: Path, change: str) -> None:
    registry.publish("m", "1", folder)
    target = place(registry) / "models/m/versions/1/weights.bin"
    data = target.read_bytes()
    if change == "flip":
        target.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif change == "append":
        target.write_bytes(data + b"!")
    elif change == "truncate":
        target.write_bytes(data[:-1])
    elif change == "remove":
        target.unlink()
    else:
        (target.parent / "extra.py").write_text("evil")
    report = registry.verify("m", "1")
    assert not report.ok
    assert any("weights.bin" in finding.message or "extra.py" in finding.message for finding in report.findings)
    if change == "extra":
        copy = registry.materialise("m", "1")
        copy.lease.release()
        assert not (copy.path / "extra.py").exists()
        return
    with pytest.raises((DamagedVersion, IncompleteVersion)):
        registry.materialise("m", "1")


def test_manifest_replaced_after_publishing_is_refused(registry: Registry, folder: Path, tmp_path: Path) -> None:
    registry.publish("m", "1", folder)
    registry.publish("m", "2", write_version(tmp_path / "other", b"evil"))
    versions = place(registry) / "models/m/versions"
    for name in ("manifest.json", "weights.bin"):
        (versions / "1" / name).write_bytes((versions / "2" / name).read_bytes())
    with pytest.raises(DamagedVersion, match="not the one that was recorded"):
        registry.activate("m", "1")
    assert not registry.verify().ok


def test_cached_copy_outlives_the_registry(registry: Registry, folder: Path) -> None:
    published = registry.publish("m", "1", folder, wrapper="noop")
    registry.activate("m", "1")
    import shutil

    head = registry.head("m")
    assert head is not None and head.record.state.active is not None
    shutil.rmtree(place(registry) / "models/m/versions")
    copy = registry.materialise("m", "1")
    with copy.lease:
        assert copy.manifest_digest == published.manifest_digest
        assert (copy.path / "weights.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("how", ["edit", "swap", "delete", "append"])
def test_forged_history_is_found(registry: Registry, folder: Path, how: str) -> None:
    registry.publish("m", "1", folder)
    for number in range(4):
        registry.policy("m", {"replicas": number + 2})
    log = place(registry) / "models/m/log"
    records = sorted(log.glob("*.json"))
    if how == "edit":
        tree = json.loads(records[1].read_text())
        tree["actor"] = "somebody else"
        records[1].write_text(json.dumps(tree))
    elif how == "swap":
        one, two = records[1].read_bytes(), records[2].read_bytes()
        records[1].write_bytes(two)
        records[2].write_bytes(one)
    elif how == "delete":
        records[2].unlink()
    else:
        tree = json.loads(records[-1].read_text())
        tree["seq"] += 1
        (log / f"{tree['seq']:020d}.json").write_text(json.dumps(tree))
        with pytest.raises(DamagedLog):
            Registry(registry.url).policy("m", {"replicas": 9})
    report = Registry(registry.url).verify("m")
    assert not report.ok, "the chain must not hold"


def test_hook_report_that_was_changed_is_found(registry: Registry, folder: Path) -> None:
    registry.publish("m", "1", folder, activate=True)
    [report] = (place(registry) / "models/m/checks").rglob("*.json")
    report.write_text(report.read_text().replace("passed", "PASSED"))
    assert any("report" in finding.message for finding in registry.verify("m").findings)


def test_truncated_blob_in_the_cache_is_fetched_again(registry: Registry, folder: Path) -> None:
    registry.publish("m", "1", folder)
    copy = registry.materialise("m", "1")
    copy.lease.release()
    target = copy.path / "weights.bin"
    target.chmod(0o644)
    target.write_bytes(b"wei")
    again = registry.materialise("m", "1")
    with again.lease:
        assert (again.path / "weights.bin").read_bytes() == b"weights"
