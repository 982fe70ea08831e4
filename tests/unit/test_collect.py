"""Collecting claims: those that died are found wherever one can lie, and payload never is one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from clipperfs.cache import Cache
from clipperfs.collect import STAGING_AGE_S, collect
from clipperfs.initialise import initialise
from clipperfs.store.local import LocalStore
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.fault_store import FaultStore
from clipperfs.workspace import Workspace

PLACES = [
    "models/m",
    "models/m/log",
    "models/m/versions/1",
    "models/m/checks/0123",
    "apps/a",
    "apps/a/log",
    "changes",
    "replicas",
    "probe",
]
PAYLOAD = ["models/m/versions/1/weights", "models/m/versions/1/deep/.claim-0123456789abcdef"]


@pytest.fixture(params=["local", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    store = LocalStore(tmp_path / "registry") if request.param == "local" else MemoryStore()
    workspace = Workspace(FaultStore(store), Cache(tmp_path / "cache"), "tester")
    initialise(workspace, "skip", single_writer=False)
    for key in [*(f"{place}/.claim-0123456789abcdef" for place in PLACES), *PAYLOAD]:
        store.replace(key, b"x")
    return workspace


def test_old_claim_is_collected_wherever_it_lies_and_payload_is_not(workspace: Workspace) -> None:
    young = collect(workspace)
    assert young.stagings == []
    report = collect(workspace, now_unix_s=time.time() + STAGING_AGE_S + 60)
    assert sorted(report.stagings) == sorted(f"{place}/.claim-0123456789abcdef" for place in PLACES)
    assert all(workspace.store.stat(key) is not None for key in PAYLOAD)
    assert all(workspace.store.stat(key) is None for key in report.stagings)


def test_staging_that_has_just_begun_is_kept_though_it_is_empty(tmp_path: Path) -> None:
    workspace = Workspace(LocalStore(tmp_path / "registry"), Cache(tmp_path / "cache"), "tester")
    initialise(workspace, "skip", single_writer=False)
    staging = tmp_path / "registry" / "models" / "m" / "versions" / ".staging-0123456789abcdef"
    staging.mkdir(parents=True)
    assert collect(workspace).stagings == []
    os.utime(staging, (1.0, 1.0))
    assert collect(workspace).stagings == ["models/m/versions/.staging-0123456789abcdef"]
    assert not staging.exists()
