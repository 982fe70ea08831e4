"""The negative case: OpenStack Swift takes the conditional write and lets several win. It must be found out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.cli import exit as exit_table
from clipperfs.errors import UnsafeStorage
from clipperfs.probe.plan import PLANS
from clipperfs.probe.run import probe
from clipperfs.store import Store
from clipperfs.testing.store_suite import StoreSuite
from tests.integration.conftest import write_version
from tests.integration.servers.conftest import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

RUNS = int(os.environ.get("CLIPPERFS_PROOF_SCALE", "1"))


class TestOnSwift(StoreSuite):
    @pytest.fixture
    def store(self, swift: S3Server, prefix: str) -> Store:
        return swift.store(prefix)

    def test_create_raced_lets_exactly_one_win(self, store: Store) -> None:
        """Here several do: every other part of the contract holds, and this one is why the probe exists."""
        for _ in range(20):
            try:
                super().test_create_raced_lets_exactly_one_win(store)
            except AssertionError:
                return
            store.delete_folder("log")
        pytest.fail("one writer won each of 20 contests: this server is no negative case any more")


@pytest.fixture
def command(swift: S3Server, tmp_path: Path) -> Command:
    return Command(swift, tmp_path)


class Command:
    """The command line in a process of its own."""

    def __init__(self, server: S3Server, place: Path) -> None:
        self._environment = {**os.environ, **server.environment, "CLIPPERFS_CACHE_DIR": str(place / "cache")}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "clipperfs.cli", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.mark.parametrize("effort", ["quick", "full"])
def test_probe_finds_several_winners_every_time(
    swift: S3Server, prefix: str, effort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in swift.environment.items():  # for the processes that race
        monkeypatch.setenv(name, value)
    plan = PLANS[effort]
    assert plan.writers >= 8 and (effort == "quick" or plan.rounds >= 50)
    for run in range(RUNS):
        report = probe(swift.store(f"{prefix}-{run}"), plan, actor="test")
        several = sum(rounds for winners, rounds in report.winners.items() if int(winners) > 1)
        print(f"swift: {effort} probe {run + 1}: several winners in {several} of {sum(report.winners.values())} rounds")
        assert not report.exclusive and several > 0


def test_init_refuses_it_and_creates_nothing(swift: S3Server, command: Command, prefix: str) -> None:
    url = f"s3://{swift.bucket}/{prefix}"
    done = command("init", url, "--probe", "full")
    assert done.returncode == exit_table.VERIFICATION_FAILED, done.stderr
    assert "would lose history" in done.stderr and "won" in done.stderr
    assert "--single-writer" in done.stderr, "the way out is told"
    assert swift.store(prefix).stat("registry.json") is None


def test_doctor_says_why(swift: S3Server, command: Command, prefix: str) -> None:
    url = f"s3://{swift.bucket}/{prefix}"
    done = command("doctor", url, "--probe", "full")
    print(done.stdout)
    assert done.returncode == exit_table.VERIFICATION_FAILED, done.stdout + done.stderr
    assert "NOT SAFE: history could be lost here" in done.stdout
    told = " ".join(done.stdout.split())
    assert "several writers would lose history" in told and "of 8 writers won" in told


def test_single_writer_works_and_every_writing_command_says_so(
    swift: S3Server, command: Command, prefix: str, tmp_path: Path
) -> None:
    url = f"s3://{swift.bucket}/{prefix}"
    assert command("init", url, "--single-writer").returncode == 0
    for version in ("1", "2"):
        write_version(tmp_path / version, version.encode())
    writing = [
        ["publish", "m", "1", str(tmp_path / "1"), "--activate"],
        ["publish", "m", "2", str(tmp_path / "2")],
        ["activate", "m", "2"],
        ["rollback", "m"],
        ["alias", "m", "stable", "1"],
        ["policy", "m", "replicas=2"],
        ["retire", "m", "2"],
        ["gc"],
    ]
    for arguments in writing:
        done = command("--registry", url, *arguments)
        if arguments[0] == "retire":  # it is the one to roll back to
            assert done.returncode == exit_table.CONFLICT
        else:
            assert done.returncode == 0, done.stderr
        assert "declared single-writer" in done.stderr, arguments
    assert "declared single-writer" not in command("--registry", url, "show", "m").stderr
    verified = command("--registry", url, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_registry_made_without_a_probe_is_found_unsafe_by_a_later_one(
    swift: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in swift.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{swift.bucket}/{prefix}"
    Registry.init(url, cache_dir=tmp_path / "cache", probe="skip")
    with pytest.raises(UnsafeStorage, match="would lose history"):
        Registry.init(url, cache_dir=tmp_path / "cache", probe="full")
