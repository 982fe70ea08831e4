"""A registry that the first release wrote stays readable for ever, byte for byte as it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from clipperfs import Registry
from clipperfs.digest import digest_file
from clipperfs.errors import IncompleteVersion, NotFound

from .write_fixture import main as write_fixture
from .write_fixture import summary

VERSIONS = sorted(path for path in Path(__file__).with_name("fixtures").iterdir() if path.is_dir())


def load(place: Path) -> Any:
    """Return what a reader must find."""
    return json.loads((place / "expected.json").read_bytes())


def assert_holds(expected: Any, found: Any, where: str = "") -> None:
    """Hold that ``found`` says what is expected; objects may have gained fields since."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert name in found, f"{where}.{name}"
            assert_holds(value, found[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(expected) == len(found), where
        for position, value in enumerate(expected):
            assert_holds(value, found[position], f"{where}[{position}]")
    else:
        assert expected == found, where


@pytest.fixture(params=VERSIONS, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Path:
    """Return the folder of one version of the format."""
    found: Path = request.param
    return found


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Registry:
    """Return a copy of the fixture's registry, to be written to."""
    shutil.copytree(place / "registry", tmp_path / "registry")
    return Registry(tmp_path / "registry", cache_dir=tmp_path / "cache", actor="test@here")


def test_registry_of_version_one_stays_readable(place: Path, tmp_path: Path) -> None:
    registry = Registry(place / "registry", cache_dir=tmp_path / "cache")
    found = json.loads(json.dumps(summary(registry)))
    assert_holds(load(place), found)
    assert registry.verify().ok


def test_fixture_was_not_touched(place: Path) -> None:
    lines = (place / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    root = place / "registry"
    there = {path.relative_to(place).as_posix(): digest_file(path)[0] for path in root.rglob("*") if path.is_file()}
    assert there == sums


def test_every_complete_version_of_the_fixture_can_be_materialised(place: Path, tmp_path: Path) -> None:
    registry = Registry(place / "registry", cache_dir=tmp_path / "cache")
    for model, expected in load(place)["models"].items():
        for version, (state, digest) in expected["versions"].items():
            if state == "complete":
                with registry.materialise(model, version).lease:
                    assert registry.materialise(model, version).manifest_digest == digest
            else:
                with pytest.raises(IncompleteVersion if state == "incoming" else NotFound):
                    registry.materialise(model, version)


def test_this_release_goes_on_where_the_fixture_ends(copy: Registry, place: Path) -> None:
    for model, expected in load(place)["models"].items():
        state_before = json.loads(copy.head(model).data)["state"]  # type: ignore[union-attr]
        assert copy.policy(model, {"replicas": 7}).changed
        head = copy.head(model)
        assert head is not None
        assert head.seq == expected["head"][0] + 1
        assert head.record.prev == expected["head"][1]
        state_before["policy"]["replicas"] = 7
        assert_holds(state_before, json.loads(head.data)["state"], model)
    assert copy.app_link("spare", "copied").changed
    assert copy.delete("digits", "doomed", restore=True).changed
    assert copy.verify().ok


def test_version_of_the_fixture_can_be_activated(copy: Registry) -> None:
    outcome = copy.activate("digits", "2", reason="after all these years")
    assert outcome.changed
    assert outcome.record is not None
    assert outcome.record.state.active is not None
    assert outcome.record.state.active.inherited["wrapper"] == {"kind": "noop", "output": 1}


def test_generator_of_the_fixture_still_works(tmp_path: Path) -> None:
    write_fixture(str(tmp_path / "fixture"))
    assert {path.name for path in (tmp_path / "fixture").iterdir()} == {"registry", "expected.json", "SHA256SUMS"}
    with pytest.raises(SystemExit, match="never again"):
        write_fixture(str(tmp_path / "fixture"))
    assert os.listdir(tmp_path / "fixture" / "registry" / "changes")
