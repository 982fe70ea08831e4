"""Plain copies into a bucket by other tools, with a daemon's adopter looking on: adopted soon, and only whole."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clipperfs.serverd.adopter import Adopter
from clipperfs.serverd.events import Events

from clipperfs import Registry, adopt
from clipperfs.documents import ModelRecord
from clipperfs.errors import IncompleteVersion
from clipperfs.source import write_manifest
from tests.integration.servers.conftest import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

SETTLE_S = 1.0
LARGE_BYTES = 40 << 20


@pytest.fixture
def registry(server: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Registry.init(f"s3://{server.bucket}/{prefix}", cache_dir=tmp_path / "cache", probe="skip")


class Follower:
    """Polls as a daemon does over a network."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        events = Events.__new__(Events)
        events.tell = lambda *_, **__: None  # type: ignore[method-assign]
        self._adopter = Adopter(registry, events, settle_s=SETTLE_S)
        self._records: dict[str, ModelRecord] = {}

    def poll(self) -> bool:
        head = self._registry.head("m")
        assert head is not None
        self._records["m"] = head.record
        return self._adopter.settle_soon(self._records, None, everything=False)

    def adopts(self, limit_s: float = 100.0) -> float:
        """Poll until a copy was adopted; return how long that took, in seconds."""
        began_s = time.monotonic()
        while not self.poll():
            assert time.monotonic() - began_s < limit_s
            time.sleep(0.2)
        return time.monotonic() - began_s


@contextmanager
def copying(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def write_source(folder: Path, *, large_bytes: int = LARGE_BYTES) -> Path:
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(1 << 20) * (large_bytes >> 20))
    (folder / "check.sh").write_text("#!/bin/sh\ntest -s weights.bin && echo checked by the script\n")
    (folder / "model.yaml").write_text("wrapper: noop\nhooks: [{command: [./check.sh]}]\n")
    return folder


@pytest.mark.needs("aws")
@pytest.mark.parametrize("by", ["marker", "manifest"])
def test_aws_s3_cp_in_its_own_order_is_adopted_whole_and_its_script_runs(
    server: S3Server, registry: Registry, tmp_path: Path, by: str
) -> None:
    registry.policy("m", {"activation": "on-publish", "allow_code": True})
    source = write_source(tmp_path / "source")
    if by == "marker":
        (source / "READY").touch()
    else:
        write_manifest(source, wrapper=None, actor="ci")
    target = f"{registry.url}/models/m/versions/1"
    follower = Follower(registry)
    with copying("aws", "s3", "cp", "--recursive", "--only-show-errors", str(source), target) as copy:
        while copy.poll() is None:
            assert not follower.poll() or copy.poll() is not None or registry.verify("m").ok
            time.sleep(0.05)
        assert copy.returncode == 0
    if registry.history("m")[0].op == "policy":
        took_s = follower.adopts()
        print(f"\n{server.name}, {by}: adopted {took_s:.1f} s after the copy had ended")
    state = registry.history("m")[0].state
    assert state.active is not None and state.active.version == "1"
    assert registry.verify("m").ok
    view = registry.show_version("m", "1")
    assert view.manifest is not None
    assert next(one.size for one in view.manifest.files if one.path == "weights.bin") == LARGE_BYTES


def test_copy_of_which_a_part_is_being_uploaded_is_not_taken_for_whole(
    server: S3Server, prefix: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.name == "moto":  # it says of every upload that it was begun in 2010
        monkeypatch.setattr(adopt, "ABANDONED_UPLOAD_S", 1e12)
    registry.policy("m", {"replicas": 2})
    store = server.store(prefix)
    for name, data in {"READY": b"\n", "model.yaml": b"wrapper: noop\n", "a.bin": b"a"}.items():
        store.replace(f"models/m/versions/1/{name}", data)
    name = f"{prefix}/models/m/versions/1/large.bin"

    async def begin(client: object) -> str:
        answer = await client.create_multipart_upload(Bucket=server.bucket, Key=name)  # type: ignore[attr-defined]
        return str(answer["UploadId"])

    upload = store.requests.call("begin", name, begin)
    follower = Follower(registry)
    ends_s = time.monotonic() + 3 * SETTLE_S
    while time.monotonic() < ends_s:
        assert not follower.poll()
        time.sleep(0.1)
    with pytest.raises(IncompleteVersion, match=r"large\.bin is being uploaded"):
        registry.seal("m", "1")

    async def end(client: object) -> None:
        part = await client.upload_part(  # type: ignore[attr-defined]
            Bucket=server.bucket, Key=name, UploadId=upload, PartNumber=1, Body=b"large"
        )
        parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        await client.complete_multipart_upload(  # type: ignore[attr-defined]
            Bucket=server.bucket, Key=name, UploadId=upload, MultipartUpload=parts
        )

    store.requests.call("end", name, end)
    follower.adopts()
    manifest = registry.show_version("m", "1").manifest
    assert manifest is not None and "large.bin" in {entry.path for entry in manifest.files}


def test_folder_markers_and_what_spark_leaves_while_it_writes(
    server: S3Server, prefix: str, registry: Registry
) -> None:
    registry.policy("m", {"replicas": 2})
    store = server.store(prefix)

    async def mark(client: object) -> None:
        for name in ("", "data/", "_temporary/", "_temporary/0/"):
            key = f"{prefix}/models/m/versions/1/{name}"
            await client.put_object(Bucket=server.bucket, Key=key, Body=b"")  # type: ignore[attr-defined]

    store.requests.call("write", "markers", mark)
    follower = Follower(registry)
    task = "models/m/versions/1/_temporary/0/task_0/part-00000"
    for key in (task, "models/m/versions/1/_SUCCESS"):
        store.replace(key, b"half")
    ends_s = time.monotonic() + 2.5 * SETTLE_S
    while time.monotonic() < ends_s:
        assert not follower.poll()
        time.sleep(0.2)
    store.replace("models/m/versions/1/data/part-00000", b"whole")
    store.replace("models/m/versions/1/data/.part-00000.crc", b"crc")
    store.replace("models/m/versions/1/model.yaml", b"wrapper: noop\n")
    store.delete(task)
    follower.adopts()
    manifest = registry.show_version("m", "1").manifest
    assert manifest is not None
    assert [entry.path for entry in manifest.files] == ["data/.part-00000.crc", "data/part-00000", "model.yaml"]
