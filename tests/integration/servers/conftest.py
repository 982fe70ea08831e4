"""Storage servers for tests, started once a session on loopback; skipped with a reason where they cannot run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipperfs.store.s3 import S3Store
from tests.integration.servers.ceph import ACCESS_KEY, SECRET_KEY, CannotStart, Ceph, free_port
from tests.integration.servers.hdfs import Hdfs, running_hdfs
from tests.integration.servers.swift import ACCESS_KEY as SWIFT_ACCESS_KEY
from tests.integration.servers.swift import SECRET_KEY as SWIFT_SECRET_KEY
from tests.integration.servers.swift import Swift

# Where scripts/install-test-servers.sh puts the aws command line.
TOOLS = Path(tempfile.gettempdir(), f"clipperfs-test-servers-{os.getuid()}", "bin")
if str(TOOLS) not in os.environ["PATH"]:
    os.environ["PATH"] += f":{TOOLS}"


@pytest.hookimpl(tryfirst=True)  # workers read the groups in this hook, too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of HDFS to one worker and those of S3 to another, so that no server is started twice."""
    for item in items:
        if item.get_closest_marker("servers"):
            is_hdfs = "hdfs" in item.nodeid or "hdfs" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("hdfs" if is_hdfs else "s3"))


@dataclass(frozen=True)
class S3Server:
    """A running server and a bucket in it. ``addresses`` are several ways to the same data, where there are."""

    name: str
    addresses: list[str]
    bucket: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def environment(self) -> dict[str, str]:
        """Return what a process needs in its environment to find the server."""
        return {
            "AWS_ENDPOINT_URL": self.addresses[0],
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def store(self, prefix: str, address: str | None = None, **options: object) -> S3Store:
        """Return a store of its own with a fresh client."""
        return S3Store(
            self.bucket,
            prefix,
            endpoint_url=address or self.addresses[0],
            key=self.access_key,
            secret=self.secret_key,
            client_kwargs={"region_name": "us-east-1"},
            **options,  # type: ignore[arg-type]
        )


def _with_bucket(
    name: str, addresses: list[str], access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY
) -> S3Server:
    server = S3Server(name, addresses, f"clipperfs-{uuid.uuid4().hex[:12]}", access_key, secret_key)

    async def make(client: object) -> None:
        await client.create_bucket(Bucket=server.bucket)  # type: ignore[attr-defined]
        # The first upload in parts makes a new Ceph cluster set up a pool for them, which takes seconds: longer than
        # the tests of plain copies let a copy rest before they take it for whole.
        upload = await client.create_multipart_upload(Bucket=server.bucket, Key="warm")  # type: ignore[attr-defined]
        await client.abort_multipart_upload(  # type: ignore[attr-defined]
            Bucket=server.bucket, Key="warm", UploadId=upload["UploadId"]
        )

    server.store("").requests.call("create", server.bucket, make)
    return server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Return the mock of S3: quick, but its conditional write is not atomic."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed: pip install 'clipperfs[servers]'")
    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        )
    try:
        address = f"http://127.0.0.1:{port}"
        ends_s = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
                break
            if process.poll() is not None or time.monotonic() > ends_s:
                pytest.skip(f"moto does not start: {log.read_text()[-300:]}")
            time.sleep(0.1)
        yield _with_bucket("moto", [address])
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """Return a Ceph cluster with two S3 gateways, as whoever runs it sees it."""
    place: Path = tmp_path_factory.mktemp("ceph")
    try:
        ceph = Ceph(place)
        ceph.__enter__()
    except CannotStart as error:
        if os.environ.get("TEST_SERVERS") == "required":
            raise
        pytest.skip(str(error))
    try:
        yield ceph
    finally:
        ceph.stop()


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Return OpenStack Swift's S3 interface, on which several writers win: the negative case."""
    try:
        running = Swift(tmp_path_factory.mktemp("swift"))
        running.__enter__()
    except CannotStart as error:
        if os.environ.get("TEST_SERVERS") == "required":
            raise
        pytest.skip(str(error))
    try:
        yield _with_bucket("swift", [running.address], SWIFT_ACCESS_KEY, SWIFT_SECRET_KEY)
    finally:
        running.stop()


@pytest.fixture(scope="session")
def rgw(ceph: Ceph) -> S3Server:
    """Return the S3 side of a Ceph cluster with two gateways."""
    return _with_bucket("rgw", ceph.gateways)


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    """Return a NameNode and a DataNode. Each test has a folder of its own in it."""
    with running_hdfs(tmp_path_factory.mktemp("hdfs")) as server:
        yield server


@pytest.fixture(params=["moto", "rgw"])
def server(request: pytest.FixtureRequest) -> S3Server:
    """Return each server in turn."""
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def prefix() -> str:
    """Return a fresh prefix of the bucket."""
    return f"t-{uuid.uuid4().hex[:12]}"
