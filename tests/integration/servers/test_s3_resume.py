"""Large files on S3 after a cut: what was sent or fetched before is made use of, and never another content."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipperfs import Registry, layout
from clipperfs.collect import STAGING_AGE_S, collect
from clipperfs.digest import digest_bytes
from clipperfs.errors import Conflict, InvalidSource, StorageUnavailable
from clipperfs.reporter import Reporter
from clipperfs.store.s3_parts import PART_BYTES
from clipperfs.store.s3_request import CallLimits
from clipperfs.testing.fault_proxy import FaultProxy
from tests.integration.servers.conftest import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

PARTS = 5
QUICK = CallLimits(connect_s=5, silence_s=5, attempt_s=6, budget_s=8)


def random_file(path: Path, parts: int = PARTS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom((parts - 1) * PART_BYTES + 12_345))
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return random_file(tmp_path / "source" / "large.bin")


def parts_sent(proxy: FaultProxy) -> int:
    return sum(method == "PUT" and "partNumber" in path for method, path in proxy.requests)


def unfinished(server: S3Server, prefix: str) -> list[str]:
    return [one.upload for one in server.store(prefix).unfinished_uploads()]


def break_off(server: S3Server, prefix: str, path: Path, key: str = "v/large.bin", at_part: int = PARTS) -> None:
    """Begin to upload a file and lose the server before part ``at_part`` is there."""
    with FaultProxy(server.addresses[0]) as proxy:
        store = server.store(prefix, proxy.url, limits=QUICK)
        store.read("warm", limit_bytes=9)
        proxy.meet("503", method="PUT", path=f"partNumber={at_part}", times=10_000)
        with pytest.raises(StorageUnavailable):
            store.upload(path, key)
    assert unfinished(server, prefix), "at least one: beginning it may have been tried twice"


def test_upload_that_was_cut_off_sends_only_what_is_missing(server: S3Server, prefix: str, large: Path) -> None:
    break_off(server, prefix, large)
    with FaultProxy(server.addresses[0]) as proxy:
        store = server.store(prefix, proxy.url)
        seen: list[int] = []
        digest = digest_bytes(large.read_bytes())
        assert store.upload_known(large, "v/large.bin", digest, executable=False, progress=seen.append) == digest
        assert parts_sent(proxy) == 1
        assert sum(seen) == large.stat().st_size
    stream = server.store(prefix).open("v/large.bin")
    assert stream is not None
    with stream:
        assert stream.read() == large.read_bytes()
    assert sum(one.size_bytes for one in server.store(prefix).unfinished_uploads()) == 0


def test_parts_of_other_content_are_sent_again_and_its_digest_is_never_taken_over(
    server: S3Server, prefix: str, large: Path, tmp_path: Path
) -> None:
    break_off(server, prefix, large)
    other = tmp_path / "other.bin"
    content = bytearray(large.read_bytes())
    content[-1] ^= 1  # in the one part that is not there: all parts that are there fit
    other.write_bytes(content)
    store = server.store(prefix)
    digest = store.upload(other, "v/large.bin")
    assert digest == digest_bytes(bytes(content))
    with FaultProxy(server.addresses[0]) as proxy:
        through = server.store(prefix, proxy.url)
        through.upload(other, "v/large.bin")
        assert parts_sent(proxy) == 0, "the object says whose content it is"
        through.upload(large, "v/large.bin")
        assert parts_sent(proxy) == PARTS, "and is not taken for the other"


def test_file_that_changed_since_it_was_hashed_is_refused_and_its_parts_go(
    server: S3Server, prefix: str, large: Path, tmp_path: Path
) -> None:
    (tmp_path / "small").write_bytes(b"small")
    store = server.store(prefix)
    for path in (large, tmp_path / "small"):
        with pytest.raises(InvalidSource, match="changed while it was read"):
            store.upload_known(path, "v/x", "0" * 64)
    assert store.stat("v/x") is None and unfinished(server, prefix) == []


def test_two_who_send_the_same_file_at_once_both_succeed(server: S3Server, prefix: str, large: Path) -> None:
    break_off(server, prefix, large)
    with ThreadPoolExecutor(3) as pool:
        digests = set(pool.map(lambda _: server.store(prefix).upload(large, "v/large.bin"), range(3)))
    assert digests == {digest_bytes(large.read_bytes())}
    found = server.store(prefix).stat("v/large.bin")
    assert found is not None and found.size == large.stat().st_size


@pytest.fixture
def registry(server: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Registry.init(f"s3://{server.bucket}/{prefix}", cache_dir=tmp_path / "cache", probe="skip")


def run_and_kill(server: S3Server, code: str, *arguments: str, method: str, path: str, after: int) -> None:
    """Run Python code against the slowed-down server, and kill it after so many requests of that kind."""
    with FaultProxy(server.addresses[0]) as proxy:
        proxy.meet("late", method=method, path=path, times=10_000, delay_s=0.3)
        environment = {**os.environ, **server.environment, "AWS_ENDPOINT_URL": proxy.url}
        with subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment) as process:
            ends_s = time.monotonic() + 120
            while sum(one == method and path in where for one, where in proxy.requests) < after:
                assert process.poll() is None and time.monotonic() < ends_s
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()


class Meter(Reporter):
    """Adds up what each piece of work says of its progress."""

    def __init__(self) -> None:
        self.done_bytes: Counter[str] = Counter()
        self._action = ""

    def begin(self, action: str, total_bytes: int) -> None:
        self._action = action.partition(" ")[0]

    def advance(self, size_bytes: int) -> None:
        self.done_bytes[self._action] += size_bytes


def test_killed_publish_and_killed_fetch_go_on_where_they_were(
    server: S3Server, registry: Registry, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = large.parent
    (source / "model.yaml").write_text("wrapper: noop\n")
    for number in range(8):
        (source / f"small-{number}").write_bytes(os.urandom(1000))
    size_bytes = sum(path.stat().st_size for path in source.iterdir())
    publish = "import sys; from clipperfs import Registry; Registry(sys.argv[1]).publish('m', '1', sys.argv[2])"
    run_and_kill(server, publish, registry.url, str(source), method="PUT", path="partNumber", after=3)
    assert registry.show_version("m", "1").state == "incoming"
    with FaultProxy(server.addresses[0]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        again, meter = Registry(registry.url, cache_dir=registry.cache.root), Meter()
        again.workspace.reporter = meter
        assert not again.publish("m", "1", source).was_there
        resent = parts_sent(proxy)
        assert resent < PARTS, "what had arrived was sent again"
        assert meter.done_bytes == {"read": size_bytes, "publish": size_bytes}
        proxy.requests.clear()
        assert again.publish("m", "1", source).was_there
        assert not any(method == "PUT" for method, _ in proxy.requests), proxy.requests
        large.write_bytes(large.read_bytes() + b"x")
        with pytest.raises(Conflict, match="other content"):
            again.publish("m", "1", source)
        large.write_bytes(large.read_bytes()[:-1])

    fetch = (
        "import sys; from clipperfs import Registry\nRegistry(sys.argv[1], cache_dir=sys.argv[2]).materialise('m', '1')"
    )
    place = str(tmp_path / "host")
    run_and_kill(server, fetch, registry.url, place, method="GET", path="large.bin", after=3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.addresses[0])
    host, meter = Registry(registry.url, cache_dir=place), Meter()
    host.workspace.reporter = meter
    copy = host.materialise("m", "1")
    with copy.lease:
        assert (copy.path / "large.bin").read_bytes() == large.read_bytes()
    print(f"\n{server.name}: {resent} of {PARTS} parts were sent again; fetched {meter.done_bytes['fetch']} bytes")


def test_processes_of_one_host_fetch_each_byte_once(
    server: S3Server, registry: Registry, large: Path, tmp_path: Path
) -> None:
    registry.publish("m", "1", large.parent, wrapper="noop")
    fetch = (
        "import sys; from clipperfs import Registry\nRegistry(sys.argv[1], cache_dir=sys.argv[2]).materialise('m', '1')"
    )
    with FaultProxy(server.addresses[0]) as proxy:
        environment = {**os.environ, **server.environment, "AWS_ENDPOINT_URL": proxy.url}
        command = [sys.executable, "-c", fetch, registry.url, str(tmp_path / "host")]
        processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
        assert [process.wait(120) for process in processes] == [0, 0, 0]
        reads = sum(method == "GET" and "large.bin" in path for method, path in proxy.requests)
    assert reads == PARTS


def test_uploads_that_never_ended_are_collected_by_age(
    server: S3Server, prefix: str, registry: Registry, large: Path
) -> None:
    key = layout.payload("m", "1", "large.bin")  # type: ignore[arg-type]
    break_off(server, prefix, large, key)
    began = max(server.store(prefix).unfinished_uploads(), key=lambda upload: upload.size_bytes)
    assert began.size_bytes == (PARTS - 1) * PART_BYTES
    report = collect(registry.workspace, now_unix_s=began.began_unix_s + 3600)
    assert any("large.bin" in what for what, _ in report.kept) and unfinished(server, prefix)
    report = collect(registry.workspace, dry_run=True, now_unix_s=began.began_unix_s + STAGING_AGE_S + 60)
    assert report.freed_bytes >= began.size_bytes and unfinished(server, prefix)
    report = collect(registry.workspace, now_unix_s=began.began_unix_s + STAGING_AGE_S + 600)
    assert any("large.bin" in what for what in report.stagings) and unfinished(server, prefix) == []
