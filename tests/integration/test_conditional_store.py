"""Azure's class on Azurite, Microsoft's own emulator, with adlfs; and Google's as far as it can be had without one.

``gcp-storage-emulator`` ignores ``ifGenerationMatch`` (8 of 8 writers won in 20 of 20 rounds), so it can't stand in.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from clipperfs.errors import StorageDenied
from clipperfs.probe.plan import QUICK
from clipperfs.probe.run import probe
from clipperfs.store import Store, canonical_url, open_store
from clipperfs.store.conditional_store import ConditionalStore
from clipperfs.testing.store_suite import StoreSuite

KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The emulator's well-known key: no secret."""


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the emulator; yield its connection string."""
    pytest.importorskip("adlfs", reason="needs the package adlfs")
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port = probing.getsockname()[1]
    place = tmp_path_factory.mktemp("azurite")
    command = ["azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location", str(place)]
    process = subprocess.Popen([*command, *options], cwd=place)
    try:
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        account = "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1"
        yield f"{account};AccountKey={KEY};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def azure(azurite: str, monkeypatch: pytest.MonkeyPatch) -> ConditionalStore:
    """Return a store in a fresh place, opened by its address alone."""
    import adlfs

    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
    with contextlib.suppress(FileExistsError):
        adlfs.AzureBlobFileSystem(connection_string=azurite, skip_instance_cache=True).mkdir("registries")
    store = open_store(f"az://registries/{uuid.uuid4().hex}")
    assert isinstance(store, ConditionalStore)
    return store


@pytest.mark.needs("azurite-blob")
# adlfs hands blocks to aiohttp as bytes, which aiohttp finds slow.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
class TestAzureStore(StoreSuite):
    @pytest.fixture
    def store(self, azure: ConditionalStore) -> Store:
        return azure


@pytest.mark.needs("azurite-blob")
def test_processes_that_race_on_azure_have_one_winner(azure: ConditionalStore) -> None:
    report = probe(azure, QUICK, actor="test")
    assert report.exclusive, [check for check in report.checks if check.outcome == "failed"]
    assert report.winners == {"1": QUICK.rounds}


@pytest.mark.parametrize(
    ("address", "store_class"), [("gs://bucket/models/", "gcs"), ("az://box/models", "azure"), ("abfs://b/m", "azure")]
)
def test_address_names_its_class(address: str, store_class: str) -> None:
    store = open_store(address)
    assert store.store_class == store_class and store.capabilities.exclusive_create
    assert store.url == canonical_url(address) == address.rstrip("/")


class Recorder:
    """A filesystem that keeps what it was asked to write."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure
        self.calls: list[tuple[str, bytes, str]] = []

    def pipe_file(self, path: str, data: bytes, *, mode: str) -> None:
        self.calls.append((path, data, mode))
        if self.failure is not None:
            raise self.failure


def test_claim_is_one_conditional_request_and_its_refusal_means_taken() -> None:
    for failure, expected in ((None, True), (FileExistsError("412"), False)):
        recorder: Any = Recorder(failure)
        store = ConditionalStore("gs://bucket/models", filesystem=recorder, root="bucket/models")
        assert store.create("log/1", b"x") is expected
        assert recorder.calls == [("bucket/models/log/1", b"x", "create")]


def test_missing_right_is_said() -> None:
    recorder: Any = Recorder(PermissionError("403"))
    with pytest.raises(StorageDenied):
        ConditionalStore("gs://b/m", filesystem=recorder, root="b/m").create("log/1", b"x")
