"""The publisher in plain shell on a bucket: a second implementation whose registry verifies, also when several race."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.errors import InvalidName
from tests.integration.servers.conftest import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300), pytest.mark.needs("aws", "sha256sum", "python3")]

SCRIPT = Path(__file__).parents[3] / "examples" / "plain_shell" / "publish-s3.sh"
PUBLISHERS = 4


class Shell:
    """A registry in a bucket, and publishers that know nothing of clipperfs."""

    def __init__(self, server: S3Server, prefix: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        self.place = place
        self.registry = Registry.init(f"s3://{server.bucket}/{prefix}", cache_dir=place / "cache", probe="skip")

    def start(self, version: str, content: str, model: str = "words") -> subprocess.Popen[str]:
        weights = self.place / f"weights-{version}-{len(content)}" / "weights"
        weights.parent.mkdir(exist_ok=True)
        weights.write_text(content)
        return subprocess.Popen(
            [str(SCRIPT), self.registry.url, model, version, "noop", "strings", str(weights)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ),
        )

    def publish(self, version: str, content: str, *, status: int = 0, model: str = "words") -> str:
        process = self.start(version, content, model)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == status, said
        return said


@pytest.fixture
def shell(server: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(server, prefix, tmp_path, monkeypatch)


def test_published_version_is_complete_chained_and_usable(shell: Shell) -> None:
    assert "published words/1 as record 1" in shell.publish("1", "first")
    shell.registry.policy("words", {"keep_previous_s": 5})
    assert "published words/2 as record 3" in shell.publish("2", "second")
    assert shell.registry.show_version("words", "2").state == "complete"
    assert shell.registry.history("words")[0].state.policy.keep_previous_s == 5, "the state is carried along"
    shell.registry.activate("words", "2")
    report = shell.registry.verify()
    assert report.ok, report


def test_again_changes_nothing_and_other_content_is_refused(shell: Shell) -> None:
    shell.publish("1", "first")
    assert "recorded already" in shell.publish("1", "first")
    assert "other content" in shell.publish("1", "other!", status=4)
    assert len(shell.registry.history("words")) == 1
    for name in ("Words", "..", "con"):
        shell.publish("1", "first", status=2, model=name)
        with pytest.raises(InvalidName):
            shell.registry.show(name)


def test_run_that_broke_off_is_completed_by_the_next(shell: Shell) -> None:
    shell.publish("1", "first")
    # As if it had broken off before its record: the same content in a registry without it.
    shell.registry.store.delete("models/words/log/00000000000000000001.json")
    assert "published words/1 as record 1" in shell.publish("1", "first")
    assert shell.registry.verify().ok


def test_racing_publishers_lose_no_record(shell: Shell, server: S3Server) -> None:
    if server.name == "moto":
        pytest.skip("moto's conditional write is check-then-act")
    racing = [shell.start(str(number), f"content {number}") for number in range(PUBLISHERS)]
    for process in racing:
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
    assert [record.seq for record in shell.registry.history("words")] == list(range(PUBLISHERS, 0, -1))
    assert shell.registry.verify().ok
