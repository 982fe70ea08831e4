"""A real daemon beside tools that copy slowly and in any order: whatever it loads has the bytes of the end."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

import pytest

from clipperfs.source import write_manifest
from tests.e2e.daemon_rig import Rig, wait_for
from tests.integration.uploads import LocalTarget, Mode, plan
from tests.scale import scaled

WRAPPER = """
import hashlib

class Wrapper:
    bytes_as = "int8"

    def load(self, context):
        names = sorted(path for path in context.path.rglob("*") if path.is_file() and path.suffix != ".pyc")
        state = hashlib.sha256()
        for path in names:
            state.update(path.relative_to(context.path).as_posix().encode() + path.read_bytes())
        self.digest = state.hexdigest()
        with open({notes!r}, "a") as stream:
            stream.write(context.version + " " + self.digest + "\\n")

    def predict(self, inputs):
        return [self.digest] * len(inputs)
"""
"""Answers with a digest of all that it was given to load, and notes each load."""

SLOWNESS = 0.03
"""Real seconds for a second of the plan."""


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["manifest", "marker"])
def test_daemon_loads_no_half_of_a_slow_copy(rig: Rig, mode: Mode) -> None:
    rig.publish("1", activation="on-publish", adopt=mode)
    notes = rig.place / "notes"
    expected: dict[str, str] = {}
    with rig.running():
        for number in range(scaled(3, 40)):
            version = f"copy-{number}"
            chance = random.Random(f"{mode} {number}")
            source = write_source(rig, version, chance, notes)
            expected[version] = digest_of(source)
            if mode == "manifest":
                write_manifest(source, wrapper=None, actor="ci")
            files = {path.relative_to(source).as_posix(): path.read_bytes() for path in files_in(source)}
            target = LocalTarget(rig.place / "registry" / "models" / "m" / "versions" / version)
            for step in plan(chance, files, mode, is_object_store=False):
                time.sleep(step.pause_s * SLOWNESS)
                step.act(target)
            wait_for(rig.serves(version), 120)
            answer = rig.ask()
            assert answer["default"] or answer["output"] == expected[answer["version"]]
    loads = [line.split() for line in notes.read_text().splitlines()]
    assert {version for version, _ in loads} == set(expected)
    assert [line for line in loads if expected[line[0]] != line[1]] == []
    print(f"\n{mode}: {len(expected)} copies, {len(loads)} loads, 0 of a half")


def write_source(rig: Rig, version: str, chance: random.Random, notes: Path) -> Path:
    yaml = "wrapper: python\ninput_type: doubles\nsample: [[1.0, 2.0]]\n"
    source = rig.folder(version, yaml)
    (source / "wrapper.py").write_text(WRAPPER.format(notes=str(notes)))
    (source / "sub").mkdir()
    (source / "sub" / "more.bin").write_bytes(chance.randbytes(chance.randint(2, 100_000)))
    return source


def files_in(source: Path) -> list[Path]:
    return sorted(path for path in source.rglob("*") if path.is_file())


def digest_of(source: Path) -> str:
    state = hashlib.sha256()
    for path in files_in(source):
        state.update(path.relative_to(source).as_posix().encode() + path.read_bytes())
    return state.hexdigest()
