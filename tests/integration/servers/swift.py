"""OpenStack Swift with its S3 interface on loopback in one scratch folder: the negative case.

It takes ``If-None-Match: *`` and refuses a name that is taken, but looks first and writes then: of writers at once,
several win. The package comes from PyPI, with what it needs, into an environment of its own that is kept.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.integration.servers.ceph import CannotStart, free_port

SWIFT = "swift==2.38.3"
# Swift's entry points need pkg_resources, which later setuptools no longer have.
BESIDE = ("setuptools<80",)
KEPT = Path(tempfile.gettempdir()) / f"clipperfs-test-servers-{os.getuid()}" / SWIFT.replace("==", "-")
ACCESS_KEY = "test:tester"
SECRET_KEY = "clipperfs-test-secret"
INSTALL_S = 600.0
START_S = 60.0
PIPELINE = (
    "catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth slo dlo versioned_writes proxy-server"
)
FILTERS = {
    "catch_errors": "catch_errors",
    "gatekeeper": "gatekeeper",
    "healthcheck": "healthcheck",
    "cache": "memcache",
    "listing_formats": "listing_formats",
    "slo": "slo",
    "dlo": "dlo",
    "versioned_writes": "versioned_writes",
}


class Swift:
    """One proxy and one server each for accounts, containers and objects. ``address`` is that of the S3 interface."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._bin = install() / "bin"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports = {kind: free_port() for kind in ("account", "container", "object", "proxy")}
        self.address = f"http://127.0.0.1:{self._ports['proxy']}"

    def __enter__(self) -> Swift:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process, and the workers that it has started."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _start(self) -> None:
        (self._place / "devices" / "sd1").mkdir(parents=True)
        self._write("swift.conf", "[swift-hash]\nswift_hash_path_suffix = test\nswift_hash_path_prefix = test\n")
        for kind in ("account", "container", "object"):
            builder = str(self._place / f"{kind}.builder")
            self._run("swift-ring-builder", builder, "create", "8", "1", "1")
            self._run("swift-ring-builder", builder, "add", f"r1z1-127.0.0.1:{self._ports[kind]}/sd1", "1")
            self._run("swift-ring-builder", builder, "rebalance")
            app = f"[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n"
            self._write(f"{kind}.conf", self._common(kind) + app)
            self._spawn(f"swift-{kind}-server", f"{kind}.conf")
        self._write("proxy.conf", self._common("proxy") + self._proxy())
        self._spawn("swift-proxy-server", "proxy.conf")
        self._await()

    def _common(self, kind: str) -> str:
        settings = {
            "bind_ip": "127.0.0.1",
            "bind_port": self._ports[kind],
            "user": getpass.getuser(),
            "swift_dir": self._place,
            "devices": self._place / "devices",
            "mount_check": "false",
            "workers": 4 if kind == "object" else 2,
            "log_address": self._place / "no-syslog",
            "disable_fallocate": "true",
        }
        return "[DEFAULT]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _proxy(self) -> str:
        # Nothing listens there: Swift then asks its servers each time.
        cache = f"memcache_servers = 127.0.0.1:{free_port()}\n"
        filters = [f"[filter:{name}]\nuse = egg:swift#{egg}\n" for name, egg in FILTERS.items()]
        filters[list(FILTERS).index("cache")] += cache
        return "\n".join(
            [
                f"[pipeline:main]\npipeline = {PIPELINE}\n",
                "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n",
                *filters,
                "[filter:s3api]\nuse = egg:swift#s3api\nlocation = us-east-1\n",
                f"[filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = {SECRET_KEY} .admin\n",
            ]
        )

    def _write(self, name: str, text: str) -> None:
        (self._place / name).write_text(text)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / "python", self._bin / program, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode > 1:  # 1 is a warning
            raise CannotStart(f"Swift: {program} failed: {(done.stdout + done.stderr)[-300:]}")

    def _spawn(self, program: str, settings: str) -> None:
        with open(self._place / f"{program}.log", "wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [self._bin / "python", self._bin / program, str(self._place / settings)],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _await(self) -> None:
        ends_s = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/healthcheck", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                pass
            ended = [process for process in self._processes if process.poll() is not None]
            if ended or time.monotonic() > ends_s:
                told = "; ".join(log.read_text(errors="replace")[-300:] for log in self._place.glob("*.log"))
                raise CannotStart(f"Swift does not start: {told}")
            time.sleep(0.1)


def install() -> Path:
    """Return the environment that Swift is installed in, made when it is not there. Raises CannotStart."""
    if not (KEPT / "installed").exists():
        KEPT.parent.mkdir(mode=0o700, exist_ok=True)
        pip = [str(KEPT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # Its source package needs a C library where there is no wheel.
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(KEPT)],
            [*pip, "--only-binary", "pyeclib", SWIFT, *BESIDE],
        ):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            except subprocess.TimeoutExpired:
                raise CannotStart(f"Swift cannot be installed in {INSTALL_S:.0f} s") from None
            if done.returncode != 0:
                raise CannotStart(f"Swift cannot be had from PyPI: {done.stderr.strip()[-300:]}")
        (KEPT / "installed").touch()
    return KEPT
