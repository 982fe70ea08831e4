"""The README's shell blocks do what they say, run in their order in one shell; its map and its links are true."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"<!-- runs in the tests -->\n```bash\n(.*?)```", re.DOTALL)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.slow
@pytest.mark.needs("curl")
def test_five_minutes_by_hand_run_as_written(tmp_path: Path) -> None:
    port, admin_port = free_ports(2)
    blocks = BLOCK.findall(README)
    assert len(blocks) == 5
    # The default port may be in use on the machine that runs the tests; nothing else is changed.
    script = "".join(f"echo '== {at}'\n{block}" for at, block in enumerate(blocks, 1)).replace(":1337/", f":{port}/")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'clipperfs stop || true' ERR\n{script}"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CLIPPERFS_PORT": str(port),
            "CLIPPERFS_ADMIN_PORT": str(admin_port),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n--- stderr\n{result.stderr}"
    parts = re.split(r"== \d\n", result.stdout)
    assert '"default":false' in parts[3], "curl shows the model's answer"
    assert re.search(r"\b2\b", parts[4])
    assert "rollback" in parts[5]
    assert "just to see it" in parts[5]


def test_map_names_every_folder_and_nothing_else() -> None:
    named = set(re.findall(r"^\| `([a-z/]+)/`", README, re.MULTILINE))
    generated = {"build", "dist", "clipperfs.egg-info"}
    top = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._"} - generated
    rooms = {f"clipperfs/{path.name}" for path in (ROOT / "clipperfs").iterdir() if (path / "__init__.py").exists()}
    assert named == top | rooms


def test_links_lead_to_files_that_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
