"""The main job on a bucket instead of a folder, by changing one address: publish, serve, switch, refuse, roll back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.client import Client
from clipperfs.daemon import Daemon
from clipperfs.demo import load_digits, train_models
from clipperfs.errors import ActivationRefused
from clipperfs.testing.fault_proxy import FaultProxy
from tests.integration.servers.conftest import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

FOLLOW_S = 30.0


def answered_by(client: Client, row: list[float], version: str) -> float:
    """Ask until ``version`` answers; return how long that took in seconds. Every answer must come from a model."""
    began_s = time.monotonic()
    while True:
        reply = client.predict("reader", row)
        assert not reply.default, reply.default_explanation
        if reply.version == version:
            return time.monotonic() - began_s
        assert time.monotonic() - began_s < FOLLOW_S, f"{reply.version} still answers"
        time.sleep(0.02)


@pytest.mark.parametrize("where", ["folder", "moto", "rgw"])
def test_main_job_runs_by_changing_one_address(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, prefix: str
) -> None:
    url = str(tmp_path / "registry")
    proxy: FaultProxy | None = None
    if where != "folder":
        server: S3Server = request.getfixturevalue(where)
        proxy = FaultProxy(server.addresses[0])
        request.addfinalizer(lambda: proxy.__exit__(None, None, None))
        proxy.__enter__()
        for name, value in {**server.environment, "AWS_ENDPOINT_URL": proxy.url}.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{server.bucket}/{prefix}"
    data = load_digits()
    first, better, spoilt = train_models(tmp_path / "models", data)
    row = data.held_rows[0].tolist()

    registry = Registry.init(url, cache_dir=tmp_path / "cache", probe="skip")
    registry.policy("digits", {"cache": "off"})
    registry.publish("digits", "1", first, activate=True)
    registry.app_register("reader", input_type="doubles", default_output="unknown", slo_us=5_000_000, link="digits")
    with ExitStack() as stack:
        daemon = stack.enter_context(
            Daemon(registry, port=0, admin_port=None, state_dir=tmp_path / "state", poll_s=0.5)
        )
        client = stack.enter_context(Client(f"http://127.0.0.1:{daemon.port}"))
        answered_by(client, row, "1")
        # The command line with --registry is how people do it.
        command = [sys.executable, "-m", "clipperfs.cli", "--registry", url, "--json"]
        done = subprocess.run(
            [*command, "publish", "digits", "2", str(better), "--activate"],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
        answered_by(client, row, "2")
        with pytest.raises(ActivationRefused):
            registry.publish("digits", "3", spoilt, activate=True)
        registry.rollback("digits")
        took_s = answered_by(client, row, "1")
        print(f"\n{where}: a rollback was served after {took_s:.2f} s")
        if proxy is not None:
            # The registry goes away: what is served stays served.
            proxy.meet("503", times=10_000)
            time.sleep(2)
            answered_by(client, row, "1")
            proxy.behave()
            time.sleep(1.5)
            proxy.requests.clear()
            time.sleep(5)
            print(f"{where}: {len(proxy.requests) / 5:.1f} requests a second with a poll each 0.5 s")
            assert len(proxy.requests) < 5 / 0.5 / 0.8 * 8 + 10
    assert registry.verify().ok
