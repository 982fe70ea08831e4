"""The publisher in shell of ``registry_layout.md`` §8.15, run as it stands there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from clipperfs import Registry

from .page import blocks

[SCRIPT] = [block.body for block in blocks() if block.name == "publish-by-hand"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Return the script, as a file."""
    path = tmp_path / "publish-by-hand"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder to publish."""
    (tmp_path / "files/sub").mkdir(parents=True)
    (tmp_path / "files/weights.bin").write_bytes(bytes(range(256)))
    (tmp_path / "files/sub/with space.txt").write_text("text")
    (tmp_path / "files/tool.sh").write_text("#!/bin/sh\n")
    (tmp_path / "files/tool.sh").chmod(0o755)
    return tmp_path / "files"


def start(script: Path, root: Path, model: str, version: str, folder: Path) -> subprocess.Popen[str]:
    """Start the publisher."""
    return subprocess.Popen(
        ["sh", str(script), str(root), model, version, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def publish(script: Path, root: Path, model: str, version: str, folder: Path) -> tuple[int, str]:
    """Run the publisher; return its exit code and what it said."""
    out, err = (process := start(script, root, model, version, folder)).communicate(timeout=60)
    return process.returncode, out + err


def test_publisher_in_shell_makes_a_registry_that_verifies(script: Path, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    assert publish(script, root, "digits", "1", folder) == (0, "published digits/1 as record 1\n")
    registry = Registry(root, cache_dir=tmp_path / "cache")
    report = registry.verify()
    assert report.findings == []
    assert (report.records, report.versions, report.files) == (1, 1, 3)
    copy = registry.materialise("digits", "1")
    copy.lease.release()
    path = copy.path
    assert (path / "sub/with space.txt").read_text() == "text"
    assert os.access(path / "tool.sh", os.X_OK)
    assert [record.op for record in registry.history("digits")] == ["publish"]


def test_publisher_in_shell_goes_on_from_clipperfs_and_back(script: Path, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    registry = Registry.init(root, cache_dir=tmp_path / "cache", actor="test@here")
    registry.publish("digits", "1", folder, wrapper="noop")
    registry.policy("digits", {"replicas": 3})
    assert publish(script, root, "digits", "2", folder)[0] == 0
    head = registry.head("digits")
    assert head is not None
    assert (head.seq, head.record.state.policy.replicas) == (3, 3)
    registry.policy("digits", {"replicas": 4})
    assert registry.verify().findings == []
    assert registry.activate("digits", "2").changed


def test_publishers_in_shell_race_without_losing_a_record(script: Path, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    running = [start(script, root, "digits", str(number), folder) for number in range(6)]
    for process in running:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    registry = Registry(root, cache_dir=tmp_path / "cache")
    assert registry.verify().findings == []
    published = [record.evidence.version for record in registry.history("digits")]
    assert sorted(map(str, published)) == [str(number) for number in range(6)]


def test_publisher_in_shell_refuses_what_may_not_be_published(script: Path, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    for name in ("../x", "Digits", "a..b", "con.1", "nul", "a\n", "", "a" * 64):
        assert publish(script, root, name, "1", folder)[0] == 2, name
        assert publish(script, root, "digits", name, folder)[0] == 2, name
    assert not root.exists()
    (folder / "link").symlink_to("/etc/passwd")
    assert publish(script, root, "digits", "1", folder)[0] == 2
    (folder / "link").unlink()
    assert publish(script, root, "digits", "1", folder)[0] == 0
    code, said = publish(script, root, "digits", "1", folder)
    assert code == 1, said
    assert sorted(os.listdir(root / "models/digits/versions")) == ["1"]
    assert Registry(root, cache_dir=tmp_path / "cache").verify().findings == []
