"""What benchmarks need of the system: found, installed by root with apt-get, or named."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.tools import ToolMissing, require, require_tool


class Debian:
    """A system on which root installs packages; ``apt-get`` ends as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, code: int = 0, delivers: bool = True) -> None:
        self.commands: list[list[str]] = []
        self.code, self.delivers = code, delivers
        self.timed_out = False
        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr("shutil.which", lambda name, **_: "/usr/bin/apt-get" if name == "apt-get" else None)
        monkeypatch.setattr("subprocess.run", self.run)

    def run(self, command: Sequence[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(command))
        if self.timed_out:
            raise subprocess.TimeoutExpired(command, settings["timeout"])
        return subprocess.CompletedProcess(list(command), self.code, "", "E: Unable to locate package\n")

    def find(self) -> str | None:
        return "/usr/lib/thing" if self.delivers and len(self.commands) == 2 else None


def test_root_installs_the_package_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    debian = Debian(monkeypatch)
    assert require("libthing.so", "libthing1", debian.find) == "/usr/lib/thing"
    update, install = debian.commands
    assert update == ["apt-get", "-qq", "update"]
    assert (install[2], install[-1]) == ("install", "libthing1")


def test_java_is_that_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    debian = Debian(monkeypatch)
    monkeypatch.setattr("benchmarks.tools.find_tool", lambda name: debian.find())
    assert require_tool("java") == "/usr/lib/thing"
    assert debian.commands[-1][-1] == "openjdk-17-jre-headless"


def test_what_is_there_is_not_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    debian = Debian(monkeypatch)
    assert require("libthing.so", "libthing1", lambda: "/opt/thing") == "/opt/thing"
    assert debian.commands == []


def test_installation_that_fails_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    debian = Debian(monkeypatch, code=100)
    with pytest.raises(ToolMissing, match="apt-get -qq update failed: E: Unable to locate package"):
        require("libthing.so", "libthing1", debian.find)
    debian.timed_out = True
    with pytest.raises(ToolMissing, match="apt-get -qq update took more than 5 minutes"):
        require("libthing.so", "libthing1", debian.find)


def test_package_that_does_not_bring_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    debian = Debian(monkeypatch, delivers=False)
    with pytest.raises(ToolMissing, match=r"libthing1 was installed, but libthing\.so is not found"):
        require("libthing.so", "libthing1", debian.find)


def test_other_users_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    debian = Debian(monkeypatch)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ToolMissing, match=r"needs libthing\.so: .*apt-get install libthing1"):
        require("libthing.so", "libthing1", debian.find)
    assert debian.commands == []
