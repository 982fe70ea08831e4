"""A daemon that a bucket's events wake, and that serves all the same when they fail to come."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from clipperfs import Registry
from clipperfs.daemon import Daemon
from tests.integration.conftest import write_version
from tests.integration.servers.conftest import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

POLL_S = 600.0


def until(condition: Callable[[], object], limit_s: float = 60) -> float:
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < limit_s
        time.sleep(0.05)
    return time.monotonic() - began_s


@pytest.fixture
def registry(moto: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    return Registry.init(f"s3://{moto.bucket}/{prefix}", cache_dir=tmp_path / "cache", probe="skip")


@pytest.fixture
def queue(moto: S3Server, prefix: str, registry: Registry) -> str:
    """Return the address of a queue that the bucket tells of what is created."""
    session = botocore.session.get_session()
    sqs: Any = session.create_client("sqs", region_name="us-east-1", endpoint_url=moto.addresses[0])
    s3: Any = session.create_client("s3", region_name="us-east-1", endpoint_url=moto.addresses[0])
    url = str(sqs.create_queue(QueueName=prefix)["QueueUrl"])
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    wanted = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(Bucket=moto.bucket, NotificationConfiguration=wanted)
    return url


def test_activation_and_copy_are_noticed_long_before_the_next_poll(
    registry: Registry, queue: str, tmp_path: Path, prefix: str, moto: S3Server
) -> None:
    source = write_version(tmp_path / "source", b"one")
    registry.policy("m", {"activation": "on-publish"})
    registry.publish("m", "1", source)
    state = {"state_dir": tmp_path / "state", "port": 0, "admin_port": None}
    with Daemon(registry, **state, poll_s=POLL_S, event_queue=queue) as daemon:  # type: ignore[arg-type]

        def serving() -> str:
            return str(daemon.status()["models"]["m"]["serving"])

        until(lambda: serving() == "1")
        (source / "weights.bin").write_bytes(b"two")
        registry.publish("m", "2", source)
        print(f"\nan activation was served after {until(lambda: serving() == '2'):.1f} s, the poll being {POLL_S:g} s")
        assert daemon.status()["registry"]["event_queue"] is None
        store = moto.store(prefix)
        for path in source.rglob("*"):
            if path.is_file():
                store.replace(f"models/m/versions/3/{path.relative_to(source)}", path.read_bytes() + b"\n")
        store.replace("models/m/versions/3/READY", b"\n")
        time.sleep(5)
        assert serving() == "2", "one look is not enough: a copy must have been unchanged for a poll"


def test_queue_that_is_not_there_is_a_warning_and_polls_go_on(
    registry: Registry, moto: S3Server, tmp_path: Path
) -> None:
    source = write_version(tmp_path / "source", b"one")
    registry.publish("m", "1", source, activate=True)
    state = {"state_dir": tmp_path / "state", "port": 0, "admin_port": None}
    lost = f"{moto.addresses[0]}/123456789012/no-such-queue"
    with Daemon(registry, **state, poll_s=0.5, event_queue=lost) as daemon:  # type: ignore[arg-type]
        until(lambda: daemon.status()["registry"]["event_queue"])
        assert any("polls go on" in reason for reason in daemon.status()["reasons"])
        (source / "weights.bin").write_bytes(b"two")
        registry.publish("m", "2", source, activate=True)
        until(lambda: daemon.status()["models"]["m"]["serving"] == "2")
