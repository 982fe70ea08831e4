"""Writers of several processes through two gateways of one Ceph cluster: one winner a slot, and no update lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipperfs import Registry
from tests.integration.servers.conftest import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

RACERS, ROUNDS = 16, 50
WRITERS, APPENDS = 8, 10
HERE = Path(__file__).parent


def test_one_of_sixteen_processes_wins_each_slot_through_two_gateways(rgw: S3Server, prefix: str) -> None:
    racers = [
        subprocess.Popen(
            [
                *(sys.executable, str(HERE / "racer.py"), rgw.bucket, prefix),
                *(rgw.addresses[number % 2], f"<{number}>", str(ROUNDS)),
            ],
            env={**os.environ, **rgw.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(RACERS)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
        winners: list[int] = []
        for _ in range(ROUNDS):
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("go\n")
                racer.stdin.flush()
            answers = [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]
            assert sorted(answers) == ["lost"] * (RACERS - 1) + ["won"]
            winners.append(answers.index("won"))
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    store = rgw.store(prefix)
    for index, winner in enumerate(winners):
        assert store.read(f"log/{index + 1:020d}.json", limit_bytes=9999) == f"<{winner}>".encode() * 200
    assert len(set(winners)) > 3, "the race was none: the same few always won"


def test_racing_writers_lose_no_update_through_two_gateways(rgw: S3Server, prefix: str, tmp_path: Path) -> None:
    url = f"s3://{rgw.bucket}/{prefix}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in rgw.environment.items():
            patch.setenv(name, value)
        registry = Registry.init(url, cache_dir=tmp_path / "cache", probe="skip")
        registry.policy("m", {"grace_s": 1})
        writers = [
            subprocess.Popen(
                [sys.executable, str(HERE / "writer.py"), url, str(tmp_path / "cache"), str(number), str(APPENDS)],
                env={**os.environ, **rgw.environment, "AWS_ENDPOINT_URL": rgw.addresses[number % 2]},
            )
            for number in range(WRITERS)
        ]
        assert [writer.wait(280) for writer in writers] == [0] * WRITERS
        head = registry.head("m")
        assert head is not None
        assert head.record.state.policy.grace_s == 1 + WRITERS * APPENDS
        assert head.seq == 1 + WRITERS * APPENDS
        report = registry.verify()
        assert report.ok and report.records == head.seq
