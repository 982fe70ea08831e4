"""A Ceph cluster on loopback in one scratch folder: monitor, manager, one memory-backed OSD, and S3 gateways.

A real S3 server whose conditional PUT is atomic across gateways. Needs root and Debian's packages
(``scripts/install-test-servers.sh``).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
ACCESS_KEY = "clipperfs-test"
SECRET_KEY = "clipperfs-test-secret"
START_S = 90.0
OSD_ATTEMPTS = 5


class CannotStart(Exception):
    """The cluster cannot run here; the text says why."""


class Ceph:
    """The cluster, for as long as the context lasts. ``gateways`` holds the gateways' addresses."""

    def __init__(self, place: Path, gateways: int = 2) -> None:
        if os.geteuid() != 0:
            raise CannotStart("Ceph needs root")
        if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
            raise CannotStart(f"Ceph is not installed ({missing[0]} is missing): scripts/install-test-servers.sh")
        self._place = place
        self._environment = {**os.environ, "CEPH_CONF": str(place / "ceph.conf"), "LC_ALL": "C"}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports = [free_port() for _ in range(gateways)]
        self.gateways = [f"http://127.0.0.1:{port}" for port in self._ports]

    def __enter__(self) -> Ceph:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process, the last started first."""
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def add_user(self, name: str) -> tuple[str, str]:
        """Make an S3 user; return his access key and secret."""
        keys = f"{name}-access-key", f"{name}-secret-key"
        self._run(
            "radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}",
            f"--access-key={keys[0]}", f"--secret={keys[1]}",
        )  # fmt: skip
        return keys

    def _start(self) -> None:
        fsid, monitor = str(uuid.uuid4()), free_port()
        self._configure(fsid, monitor)
        ring = str(self._place / "keyring")
        for name in ("mon.", "client.admin"):
            allow = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
            self._run("ceph-authtool", ring, "-C" if name == "mon." else "-g", "--gen-key", "-n", name, *allow)
        self._run(
            "monmaptool", "--create", "--clobber", "--addv", "a", f"[v1:127.0.0.1:{monitor}]", "--fsid", fsid, "monmap"
        )
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", ring)
        self._spawn("ceph-mon", "-f", "-i", "a")
        osd = str(uuid.uuid4())
        self._ask("osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-mgr", "-f", "-i", "x")
        self._start_osd()
        keys = [f"--access-key={ACCESS_KEY}", f"--secret={SECRET_KEY}"]
        self._run("radosgw-admin", "user", "create", "--uid=tester", "--display-name=tester", *keys)
        for index in range(len(self._ports)):
            self._spawn("radosgw", "-f", "-n", f"client.rgw{index}")
        for address in self.gateways:
            self._await(address)

    def _configure(self, fsid: str, monitor: int) -> None:
        place = self._place
        for folder in ("osd", "mon", "mgr", "run"):
            (place / folder).mkdir()
        lines = [
            "[global]",
            f"fsid = {fsid}",
            f"mon host = v1:127.0.0.1:{monitor}",
            "mon initial members = a",
            "auth cluster required = none",
            "auth service required = none",
            "auth client required = none",
            "public addr = 127.0.0.1",
            "cluster addr = 127.0.0.1",
            "osd objectstore = memstore",
            "memstore device bytes = 2147483648",
            "osd pool default size = 1",
            "osd pool default min size = 1",
            "osd pool default pg num = 8",
            "osd pool default pg autoscale mode = off",
            "osd crush chooseleaf type = 0",
            "mon allow pool size one = true",
            "mon data avail crit = 1",
            f"osd data = {place}/osd",
            f"mon data = {place}/mon",
            f"mgr data = {place}/mgr",
            f"run dir = {place}/run",
            f"log file = {place}/$name.log",
            f"admin socket = {place}/run/$name.asok",
            f"pid file = {place}/run/$name.pid",
            f"keyring = {place}/keyring",
            "[mon.a]",
            f"mon addr = 127.0.0.1:{monitor}",
        ]
        for index, port in enumerate(self._ports):
            lines += [f"[client.rgw{index}]", f"rgw frontends = beast endpoint=127.0.0.1:{port}"]
        (place / "ceph.conf").write_text("\n".join(lines) + "\n")

    def _start_osd(self) -> None:
        """Start the OSD; again when it ends at once, which it does when it asks the monitor before knowing its map."""
        for _ in range(OSD_ATTEMPTS):
            process = self._spawn("ceph-osd", "-f", "-i", "0")
            ends_s = time.monotonic() + START_S / 2
            while process.poll() is None and time.monotonic() < ends_s:
                if json.loads(self._ask("osd", "stat", "-f", "json"))["num_up_osds"]:
                    return
                time.sleep(0.2)
            self._processes.remove(process)
            process.kill()
            process.wait()
        raise CannotStart(f"the OSD ended {OSD_ATTEMPTS} times")

    def _ask(self, *words: str) -> str:
        """Give the cluster a command; again for a while when a monitor that has just started refuses everything."""
        ends_s = time.monotonic() + START_S / 2
        while True:
            try:
                return self._run("ceph", "--connect-timeout", "30", *words)
            except CannotStart:
                if time.monotonic() > ends_s:
                    raise
                time.sleep(0.5)

    def _run(self, *command: str) -> str:
        try:
            done = subprocess.run(
                command,
                cwd=self._place,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=START_S / 2,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CannotStart(f"{' '.join(command[:3])} does not end") from error
        if done.returncode != 0:
            raise CannotStart(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with open(self._place / f"{command[0]}.out", "ab") as output:
            process = subprocess.Popen(command, cwd=self._place, env=self._environment, stdout=output, stderr=output)
        self._processes.append(process)
        return process

    def _await(self, address: str) -> None:
        ends_s = time.monotonic() + START_S
        while time.monotonic() < ends_s:
            if (gone := next((one for one in self._processes if one.poll() is not None), None)) is not None:
                raise CannotStart(f"{gone.args!r} ended with {gone.returncode}")
            with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(address, timeout=2):
                return
            time.sleep(0.2)
        raise CannotStart(f"no answer from {address} within {START_S:.0f} s")


def free_port() -> int:
    """Return a port of loopback that was free a moment ago, for servers that cannot take one from the system."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
