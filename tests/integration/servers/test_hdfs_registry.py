"""A registry on a real HDFS: the whole path, writers at once, and versions that arrive by ``hdfs dfs -put``."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from clipperfs import Registry, layout
from clipperfs.client import Client
from clipperfs.daemon import Daemon
from clipperfs.documents import ProbeReport, parse_document
from clipperfs.errors import Conflict, IncompleteVersion
from clipperfs.limits import LIMITS
from clipperfs.source import write_manifest
from tests.e2e.daemon_rig import wait_for
from tests.integration.conftest import write_version
from tests.integration.servers.hdfs import Hdfs

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

WRITERS = 6
APPENDS = 5
WORKER = """
import sys
from clipperfs import Registry
url, cache, me, count = sys.argv[1:]
registry = Registry(url, cache_dir=cache, actor=me)
sys.stdin.readline()
for number in range(int(count)):
    registry.alias("m", f"{me}-{number % 3}", "1", reason=f"{me}-{number}")
    registry.alias("m", f"{me}-{number % 3}", None, reason=f"{me}-{number}")
"""


@pytest.fixture(params=["rpc", "web"])
def registry(request: pytest.FixtureRequest, hdfs: Hdfs, tmp_path: Path) -> Registry:
    address = hdfs.url if request.param == "rpc" else hdfs.web_url
    if address is None:
        pytest.skip(hdfs.no_web)
    place = f"{address}/r/{secrets.token_hex(6)}"
    return Registry.init(place, cache_dir=tmp_path / "cache", actor="ci@test", probe="skip")


def served(place: Path, output: str) -> Path:
    yaml = f"wrapper: {{kind: noop, output: {output}}}\ninput_type: doubles\nsample: [[1.0, 2.0]]\n"
    return write_version(place, output.encode(), yaml)


def folder_of(registry: Registry, version: str) -> str:
    """Return the path of a version of model ``m`` inside HDFS."""
    return f"/{registry.url.split('/', 3)[3]}/models/m/versions/{version}"


def test_whole_path_from_publishing_to_rollback_under_a_daemon(registry: Registry, tmp_path: Path) -> None:
    for version in ("1", "2"):
        registry.publish("m", version, served(tmp_path / version, f"v{version}"))
    registry.app_register("a", input_type="doubles", default_output="none", slo_us=2_000_000, link="m")
    registry.activate("m", "1")
    daemon = Daemon(registry, state_dir=tmp_path / "state", port=0, admin_port=None, poll_s=0.5, drain_s=5.0)
    daemon.start(60, detached=False)
    try:
        with Client(f"http://127.0.0.1:{daemon.port}") as client:

            def answers(output: str) -> bool:
                return bool(client.predict("a", [1.0, 2.0]).output == output)

            wait_for(lambda: answers("v1"), 30)
            registry.activate("m", "2")
            wait_for(lambda: answers("v2"), 30)
            registry.rollback("m")
            wait_for(lambda: answers("v1"), 30)
    finally:
        daemon.stop(0)
    assert registry.verify().ok


def test_publishing_again_is_the_same_and_other_bytes_conflict(registry: Registry, tmp_path: Path) -> None:
    registry.publish("m", "1", served(tmp_path / "1", "v1"))
    assert registry.publish("m", "1", tmp_path / "1").was_there
    with pytest.raises(Conflict):
        registry.publish("m", "1", served(tmp_path / "other", "v2"))
    assert registry.verify().ok


def test_writers_at_once_lose_nothing(registry: Registry, tmp_path: Path) -> None:
    registry.publish("m", "1", served(tmp_path / "1", "v1"))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, registry.url, str(tmp_path / "cache"), f"w{number}", str(APPENDS)],
            stdin=subprocess.PIPE,
        )
        for number in range(WRITERS)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"go\n")
        worker.stdin.close()
    assert [worker.wait(timeout=500) for worker in workers] == [0] * WRITERS
    records = registry.history("m")
    assert [record.seq for record in records] == list(range(len(records), 0, -1))
    assert len(records) == 1 + WRITERS * APPENDS * 2
    assert registry.verify().ok


@pytest.mark.parametrize("with_manifest", [True, False])
def test_copy_by_hdfs_put_becomes_a_version(
    hdfs: Hdfs, registry: Registry, tmp_path: Path, with_manifest: bool
) -> None:
    source = served(tmp_path / "source", "v1")
    if with_manifest:
        write_manifest(source, wrapper=None, actor="ci")
    goal = folder_of(registry, "1")
    hdfs.shell("-mkdir", "-p", goal.rpartition("/")[0])
    hdfs.shell("-put", str(source), goal)
    assert registry.show_version("m", "1").state == ("complete" if with_manifest else "incoming")
    registry.seal("m", "1")
    registry.activate("m", "1")
    assert registry.verify().ok


def test_copy_in_any_order_is_incoming_until_whole(hdfs: Hdfs, registry: Registry, tmp_path: Path) -> None:
    source = served(tmp_path / "source", "v1")
    write_manifest(source, wrapper=None, actor="ci")
    goal = folder_of(registry, "1")
    files = [path for path in source.rglob("*") if path.is_file()]
    random.Random(7).shuffle(files)
    files.sort(key=lambda path: path.name != "manifest.json")  # the worst order: the marker of completeness first
    hdfs.shell("-mkdir", "-p", f"{goal}/sub")
    for number, path in enumerate(files):
        hdfs.shell("-put", str(path), f"{goal}/{path.relative_to(source)}")
        whole = number == len(files) - 1
        assert registry.show_version("m", "1").state == ("complete" if whole else "incoming")
        if not whole:
            with pytest.raises(IncompleteVersion):
                registry.materialise("m", "1")
    assert registry.seal("m", "1").was_there
    with registry.materialise("m", "1").lease:
        pass


def test_init_finds_that_one_writer_wins(hdfs: Hdfs, tmp_path: Path) -> None:
    registry = Registry.init(f"{hdfs.url}/r/{secrets.token_hex(6)}", cache_dir=tmp_path / "cache", probe="quick")
    [entry] = registry.store.list(layout.PROBES)
    data = registry.store.read(f"{layout.PROBES}/{entry.name}", limit_bytes=LIMITS.probe_bytes)
    assert data is not None
    assert parse_document(ProbeReport, data, limit_bytes=LIMITS.probe_bytes).exclusive
