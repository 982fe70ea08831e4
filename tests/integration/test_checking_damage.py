"""A hook that damages the cached copy of a version spoils its own run only: the next one fetches the files anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.errors import ActivationRefused


def write_version(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "weights").write_bytes(weights)
    (folder / "model.yaml").write_text("wrapper: noop\ninput_type: doubles\n")
    return folder


@pytest.mark.parametrize("whose", ["candidate", "active"])
def test_copy_that_a_hook_has_damaged_is_fetched_anew(tmp_path: Path, registry: Registry, whose: str) -> None:
    registry.publish("m", "1", write_version(tmp_path / "1", b"one"), activate=True)
    registry.publish("m", "2", write_version(tmp_path / "2", b"two"))
    spoil = (
        "import json, os, sys; p = json.load(sys.stdin)[sys.argv[1]]['path'] + '/weights'; "
        "os.chmod(p, 0o644); open(p, 'r+b').write(b'bad')"
    )
    registry.policy("m", {"hooks": [{"command": ["python3", "-c", spoil, whose]}]})
    with pytest.raises(ActivationRefused, match="unchanged"):
        registry.activate("m", "2")
    registry.policy("m", {"hooks": []})
    outcome = registry.activate("m", "2")
    assert outcome.changed
    assert [verdict.outcome for verdict in outcome.verdicts] == ["passed", "passed"]
    assert registry.rollback("m").changed, "the version that was active is whole too"
