"""The tour on real servers by changing one address: all of it works there, and nothing of it stays."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.demo import main
from clipperfs.errors import InvalidSetting
from clipperfs.store import open_store
from tests.integration.servers.conftest import S3Server
from tests.integration.servers.hdfs import Hdfs

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


@pytest.fixture(params=["moto", "rgw", "hdfs", "webhdfs"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, prefix: str) -> str:
    """Return an address on each server in turn."""
    if request.param in ("moto", "rgw"):
        server: S3Server = request.getfixturevalue(request.param)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        return f"s3://{server.bucket}/{prefix}"
    hdfs: Hdfs = request.getfixturevalue("hdfs")
    found = hdfs.url if request.param == "hdfs" else hdfs.web_url
    if found is None:
        pytest.skip(hdfs.no_web)
    return f"{found}/{prefix}"


def hold(said: str) -> None:
    """Hold what the tour said to what it promises."""
    assert "copied by one upload for each file, the manifest first" in said
    assert re.search(r"accuracy of version 2: 0\.99", said), said
    assert "version 3 of model digits was refused by quality" in said
    assert re.search(r"7  rollback  1 .* integrity passed, loadable passed", said), said
    assert re.search(r"Done: [1-9]\d* answers, 0 failed requests\.", said), said
    print("\n" + "\n".join(line for line in said.splitlines() if "answered" in line or "answers" in line))


def test_demo_runs_by_changing_one_address_and_leaves_nothing(
    request: pytest.FixtureRequest, address: str, tmp_path: Path
) -> None:
    if "moto" in request.node.name:
        lines: list[str] = []  # moto lets two writers win now and then, and the probe would rightly say so
        assert main(url=address, say=lines.append, probe="skip") == 0
        said = "\n".join(lines)
    else:
        command = [sys.executable, "-m", "clipperfs.cli", "demo", "--registry", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout
    hold(said)
    assert re.search(rf"{re.escape(address)}/demo-[0-9a-f]{{12}} is removed\.", said), said
    assert list(open_store(address.rpartition("/")[0]).walk(address.rpartition("/")[2])) == []


def test_demo_keeps_off_a_registry_that_is_there(address: str, tmp_path: Path) -> None:
    Registry.init(address, cache_dir=tmp_path / "cache", probe="skip")
    parent, _, name = address.rpartition("/")
    for below in (address, f"{address}/models/tours"):
        with pytest.raises(InvalidSetting, match="is a registry"):
            main(url=below)
    assert [entry.name for entry in open_store(parent).walk(name)] == ["registry.json"]
