"""Two CI jobs at once: nothing is lost, and the one that came second is told."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import Verdict
from clipperfs.errors import Conflict
from tests.integration.conftest import write_version

WORKER = """
import sys
from clipperfs import Registry
from clipperfs.errors import Conflict
url, cache, me, count = sys.argv[1:]
registry = Registry(url, cache_dir=cache, actor=me)
sys.stdin.readline()
won = 0
for number in range(int(count)):
    registry.policy("m", {"replicas": number % 7}, reason=f"{me}-{number}")
    registry.alias("m", f"{me}-{number % 3}", "1") if number % 2 else None
print(len([r for r in registry.history("m") if r.actor == me]))
"""


def test_processes_that_append_at_once_lose_nothing(registry: Registry, folder: Path, tmp_path: Path) -> None:
    registry.publish("m", "1", folder)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, registry.url, str(tmp_path / "cache"), f"w{number}", "40"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    written = [int(worker.communicate(timeout=100)[0]) for worker in workers]
    records = registry.history("m")
    assert [record.seq for record in records] == list(range(len(records), 0, -1))
    assert len(records) == 1 + sum(written)
    assert registry.verify().ok


@pytest.fixture
def _slow_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    together = threading.Barrier(2, timeout=30)

    def answer(request: CheckRequest) -> list[Verdict]:
        together.wait()
        return [Verdict(hook=hook.name, outcome="passed") for hook in request.hooks]

    monkeypatch.setattr(runner, "run_hooks", answer)


@pytest.mark.usefixtures("_slow_hooks")
def test_two_activations_at_once_one_wins_and_the_other_sees_both_records(registry: Registry, tmp_path: Path) -> None:
    for version in ("1", "2"):
        registry.publish("m", version, write_version(tmp_path / f"s{version}", version.encode()))
    others = [Registry(registry.url, cache_dir=tmp_path / "cache", actor=f"job-{number}") for number in (1, 2)]

    def job(number: int) -> object:
        try:
            return others[number - 1].activate("m", str(number), reason=f"job {number}")
        except Conflict as conflict:
            return conflict

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(job, (1, 2)))
    conflicts = [answer for answer in answers if isinstance(answer, Conflict)]
    assert len(conflicts) == 1
    fields = conflicts[0].fields
    assert fields["mine"]["op"] == "activate" and fields["found"]["op"] == "activate"
    assert fields["found"]["actor"] != fields["mine"]["actor"]
    json.dumps(fields)
    head = registry.head("m")
    assert head is not None and head.seq == 3
    assert sum(record.op == "activate" for record in registry.history("m")) == 1


def test_expected_record_that_is_not_the_newest_is_a_conflict(registry: Registry, folder: Path) -> None:
    registry.publish("m", "1", folder)
    with pytest.raises(Conflict) as caught:
        registry.activate("m", "1", expect_seq=7)
    assert caught.value.fields["expected_seq"] == 7 and caught.value.fields["found"]["seq"] == 1
    with pytest.raises(Conflict):
        registry.policy("m", {"replicas": 2}, expect_seq=0)


def test_same_version_published_at_once_with_other_content_has_one_winner(registry: Registry, tmp_path: Path) -> None:
    sources = [write_version(tmp_path / f"s{number}", bytes([number]) * 200_000) for number in range(6)]

    def job(source: Path) -> bool:
        try:
            Registry(registry.url, cache_dir=tmp_path / "cache").publish("m", "1", source)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        wins = list(pool.map(job, sources))
    assert sum(wins) == 1
    with registry.materialise("m", "1").lease:
        pass
    assert registry.verify().ok


def test_two_inits_at_once_make_one_registry(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Registry.init(tmp_path / "r").describe().registry_id, range(8)))
    assert len(set(found)) == 1
