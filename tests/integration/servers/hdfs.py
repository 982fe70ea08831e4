"""A real HDFS on loopback in one scratch folder: a NameNode and a DataNode of Hadoop 2.7.3, with WebHDFS.

The servers' classes are inside the source package of pyspark 2.4.8 on PyPI. WebHDFS needs Jersey 1, which is not among
them but is packaged by Debian; where it cannot be had, HDFS runs without WebHDFS. Both are fetched once and kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.servers.hdfs_settings import JERSEY_PACKAGES, OPENED, WANTED_JARS, write_settings

PYSPARK = "pyspark==2.4.8"
HEAP = "-Xmx256m"
START_S = 60.0
FETCH_S = 900.0
KEPT = Path(tempfile.gettempdir()) / f"clipperfs-test-servers-{os.getuid()}" / "hadoop-2.7.3"


class CannotStart(Exception):
    """HDFS cannot run here; the text says why."""


class Hdfs:
    """The servers, for as long as the context lasts.

    Attributes:
        url: the filesystem's address by RPC.
        web_url: its address by WebHDFS, or ``None`` where Jersey 1 could not be had.
        no_web: why not.
    """

    def __init__(self, place: Path) -> None:
        if shutil.which("java") is None:
            raise CannotStart("HDFS needs java: apt-get install default-jre-headless")
        self._place = place
        jars = _hadoop_jars()
        self.no_web = ""
        try:
            jars += _jersey_jars()
        except CannotStart as error:
            self.no_web = str(error)
        self._classes = os.pathsep.join(map(str, jars))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._namenode: subprocess.Popen[bytes] | None = None
        rpc_port, web_port = write_settings(place, with_web=not self.no_web)
        self.url = f"hdfs://127.0.0.1:{rpc_port}"
        self.web_url = None if self.no_web else f"webhdfs://127.0.0.1:{web_port}"
        self._web_port = web_port

    def start(self) -> None:
        """Format a filesystem, start both servers and wait until the one has registered with the other."""
        done = self.java("org.apache.hadoop.hdfs.server.namenode.NameNode", "-format", "-nonInteractive")
        if done.returncode != 0:
            raise CannotStart(f"the filesystem cannot be formatted: {done.stderr[-500:]}")
        self.start_namenode()
        self._spawn("org.apache.hadoop.hdfs.server.datanode.DataNode", "datanode.log")
        self._await_text("datanode.log", "successfully registered with NN")

    def start_namenode(self) -> None:
        """Start the NameNode alone, again after :meth:`stop_namenode`; its addresses stay."""
        self._namenode = self._spawn("org.apache.hadoop.hdfs.server.namenode.NameNode", "namenode.log")
        self._await_text("namenode.log", "NameNode RPC up at")

    def stop_namenode(self) -> None:
        """Kill the NameNode."""
        assert self._namenode is not None
        self._namenode.kill()
        self._namenode.wait()
        self._processes.remove(self._namenode)

    def stop(self) -> None:
        """End both servers."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def shell(self, *arguments: str) -> None:
        """Run ``hdfs dfs`` with these arguments."""
        done = self.java("org.apache.hadoop.fs.FsShell", *arguments)
        assert done.returncode == 0, done.stderr

    def admin(self, *arguments: str) -> None:
        """Run ``hdfs dfsadmin`` with these arguments."""
        done = self.java("org.apache.hadoop.hdfs.tools.DFSAdmin", *arguments)
        assert done.returncode == 0, done.stderr

    def java(self, main_class: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of Hadoop's programs to its end."""
        return subprocess.run(
            self._command(main_class, *arguments), capture_output=True, text=True, timeout=START_S, check=False
        )

    def servlets_answer(self) -> bool:
        """Say whether WebHDFS answers a request at all."""
        address = f"http://127.0.0.1:{self._web_port}/webhdfs/v1/?op=LISTSTATUS&user.name=tester"
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _command(self, main_class: str, *arguments: str) -> list[str]:
        opened = [word for package in OPENED for word in ("--add-opens", f"{package}=ALL-UNNAMED")]
        classes = os.pathsep.join([str(self._place / "settings"), str(self._place / "web"), self._classes])
        return ["nice", "-n", "10", "java", HEAP, *opened, "-cp", classes, main_class, *arguments]

    def _spawn(self, main_class: str, log: str) -> subprocess.Popen[bytes]:
        with open(self._place / log, "wb") as output:
            process = subprocess.Popen(self._command(main_class), stdout=output, stderr=output)
        self._processes.append(process)
        return process

    def _await_text(self, log: str, text: str) -> None:
        ends_s = time.monotonic() + START_S
        while text not in (told := (self._place / log).read_text(errors="replace")):
            if self._processes[-1].poll() is not None or time.monotonic() > ends_s:
                raise CannotStart(f"HDFS does not start: {told[-500:]}")
            time.sleep(0.1)


@contextmanager
def running_hdfs(place: Path) -> Iterator[Hdfs]:
    """Run HDFS for a block; skip with the reason where it cannot run, unless TEST_SERVERS=required."""
    server = None
    try:
        try:
            server = Hdfs(place)
            server.start()
            if server.web_url is not None and not server.servlets_answer():
                server.web_url, server.no_web = None, "WebHDFS does not answer with this Jersey"
        except CannotStart as error:
            if os.environ.get("TEST_SERVERS") == "required":
                raise
            pytest.skip(str(error))
        yield server
    finally:
        if server is not None:
            server.stop()


def _hadoop_jars() -> list[Path]:
    goal = KEPT / "jars"
    if not goal.is_dir():
        with tempfile.TemporaryDirectory(prefix="clipperfs-hadoop-") as folder:
            fetched = Path(folder)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
            _run(
                [*pip, "--no-binary", ":all:", "--dest", folder, PYSPARK],
                "the source package of pyspark 2.4.8 (220 MB) cannot be had from PyPI",
            )
            [package] = fetched.glob("pyspark-*.tar.gz")
            (fetched / "jars").mkdir()
            with tarfile.open(package) as archive:
                for member in archive:
                    name = member.name.rpartition("/")[2]
                    if "/deps/jars/" in member.name and name.startswith(WANTED_JARS):
                        content = archive.extractfile(member)
                        assert content is not None
                        (fetched / "jars" / name).write_bytes(content.read())
            _keep(fetched / "jars", goal)
    return sorted(goal.glob("*.jar"))


def _jersey_jars() -> list[Path]:
    goal = KEPT / "jersey"
    if not goal.is_dir():
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                raise CannotStart(f"WebHDFS needs Jersey 1 from Debian's packages, and {program} is missing")
        with tempfile.TemporaryDirectory(prefix="clipperfs-jersey-") as folder:
            reason = "Jersey 1 for WebHDFS cannot be had from Debian (apt-get update may help)"
            _run(["apt-get", "download", "-q", *JERSEY_PACKAGES], reason, folder)
            for package in Path(folder).glob("*.deb"):
                _run(["dpkg-deb", "-x", str(package), folder], reason)
            (Path(folder) / "jars").mkdir()
            for jar in (Path(folder) / "usr/share/java").glob("*.jar"):
                if not jar.is_symlink():
                    shutil.copy(jar, Path(folder) / "jars")
            _keep(Path(folder) / "jars", goal)
    return sorted(goal.glob("*.jar"))


def _run(command: list[str], reason: str, folder: str | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotStart(f"{reason}: it took too long") from None
    if done.returncode != 0:
        raise CannotStart(f"{reason}: {done.stderr.strip()[-300:]}")


def _keep(made: Path, goal: Path) -> None:
    """Move a finished folder to where later sessions find it; another session may have been quicker."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=goal.parent))
    shutil.copytree(made, fresh, dirs_exist_ok=True)
    try:
        os.rename(fresh, goal)
    except OSError:
        shutil.rmtree(fresh)
