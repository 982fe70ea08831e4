"""Many processes move one pointer at once on a real server: one order explains what every one of them was told."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from clipperfs import Registry
from tests.integration.history_of_activators import Run, prepare, race
from tests.integration.servers.conftest import S3Server
from tests.integration.servers.hdfs import Hdfs
from tests.scale import scaled

pytestmark = [pytest.mark.servers, pytest.mark.proof, pytest.mark.timeout(7200)]

PROCESSES, OPERATIONS = scaled(4, 16), scaled(20, 200)


def prove(registry: Registry, place: Path, run: Run) -> None:
    prepare(registry, place)
    judged = race(registry, place, run)
    print(f"\n{run.processes} processes x {run.operations} on {registry.store.store_class}: {judged}")
    assert judged.faults == []
    assert judged.tally["operations"] >= run.processes * run.operations
    assert registry.verify().ok


def test_history_through_two_gateways_is_linearizable(
    rgw: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rgw.environment.items():
        monkeypatch.setenv(name, value)
    registry = Registry.init(f"s3://{rgw.bucket}/{prefix}", cache_dir=tmp_path / "cache", probe="skip")
    ways = [{**rgw.environment, "AWS_ENDPOINT_URL": address} for address in rgw.addresses]
    assert len(ways) == 2
    run = Run(PROCESSES, OPERATIONS, kills=scaled(4, 30), kill_every_s=3, timeout_s=7000, environments=ways)
    prove(registry, tmp_path, run)


@pytest.mark.parametrize("way", ["rpc", "web"])
def test_history_on_hdfs_is_linearizable(hdfs: Hdfs, tmp_path: Path, way: str) -> None:
    address = hdfs.url if way == "rpc" else hdfs.web_url
    if address is None:
        pytest.skip(hdfs.no_web)
    registry = Registry.init(f"{address}/r/{secrets.token_hex(6)}", cache_dir=tmp_path / "cache", probe="skip")
    prove(registry, tmp_path, Run(PROCESSES, OPERATIONS, kills=scaled(4, 30), kill_every_s=3, timeout_s=7000))
