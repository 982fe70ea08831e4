"""Rights as the local filesystem enforces them: commands of other users, who may or may not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.cli.exit import PERMISSION
from clipperfs.errors import InvalidSetting, StorageDenied
from clipperfs.permissions.acl import EVERYONE, Principal
from clipperfs.permissions.posix import PosixLists
from tests.integration.conftest import write_version

CHILD = """
import contextlib, io, os, pwd, socket, sys
uid, scratch, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[4:]
os.environ["CLIPPERFS_REGISTRY"] = scratch
from clipperfs.cli.root import clipperfs

def run():
    try:
        clipperfs.main(arguments)
    except SystemExit as end:
        return end.code

with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    run()  # what it imports lies where the other user may not look
os.environ["CLIPPERFS_REGISTRY"] = sys.argv[3]
os.environ["CLIPPERFS_CACHE_DIR"] = f"{scratch}-cache-{uid}"
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
sys.exit(run())
"""
"""Runs a command of ours as root on a scratch registry, then as another user on the one that counts."""

BO, CY = 64001, 64002


class Town:
    """A registry that root owns, and other users who run commands on it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.registry = Registry.init(place / "registry", cache_dir=place / "cache", actor="owner@here")
        Registry.init(place / "scratch" / "registry").publish("m", "1", self.version("0"))
        os.chmod(place / "scratch", 0o777)

    def version(self, name: str) -> Path:
        """Return a folder to publish."""
        return write_version(self.place / "sources" / name, name.encode())

    def run(self, uid: int, *arguments: str, exits: int = 0) -> str:
        """Run a command as a user; return what it printed."""
        places = [str(self.place / "scratch" / "registry"), str(self.place / "registry")]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(uid), *places, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.place,
        )
        assert done.returncode == exits, done.stdout + done.stderr
        return done.stdout + done.stderr

    def path(self, key: str) -> Path:
        """Return where a key lies."""
        return self.place / "registry" / key


@pytest.fixture
def town() -> Iterator[Town]:
    """Return a town whose streets are open: pytest's own folders are closed to other users."""
    place = Path(tempfile.mkdtemp(prefix="cfs-town-", dir="/tmp"))
    os.chmod(place, 0o755)
    try:
        yield Town(place)
    finally:
        shutil.rmtree(place)


def as_user(uid: int, code: str) -> str:
    """Run some lines of plain Python as a user; return what they print."""
    drop = f"import os; os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})\n"
    done = subprocess.run(["python3", "-S", "-c", drop + code], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


@pytest.mark.root
def test_denied_write_exits_9_and_names_right_model_registry_and_key(town: Town) -> None:
    town.registry.publish("m", "1", town.version("1"))
    said = town.run(BO, "policy", "m", "replicas=2", exits=PERMISSION)
    assert "you lack the right to activate model m" in said
    assert "models/m/log" in said
    assert str(town.place / "registry") in said
    assert "'clipperfs permissions m' shows who has it" in said
    said = town.run(BO, "publish", "m", "2", str(town.version("2")), exits=PERMISSION)
    assert "you lack the right to publish model m" in said
    assert "models/m/versions" in said
    assert [version.version for version in town.registry.versions("m")] == ["1"]
    told = json.loads(town.run(BO, "--json", "retire", "m", "1", exits=PERMISSION))
    assert (told["right"], told["model"], told["error"]) == ("activate", "m", "StorageDenied")


@pytest.mark.root
def test_publisher_brings_versions_and_an_activator_records_them(town: Town) -> None:
    town.registry.grant("m", "publish", f"user:{BO}")
    town.registry.grant("m", "activate", f"user:{CY}")
    town.run(BO, "publish", "m", "1", str(town.version("1")), "--no-record")
    assert town.registry.head("m") is None
    town.run(CY, "seal", "m", "1")
    town.run(CY, "policy", "m", "replicas=2")
    said = town.run(BO, "publish", "m", "2", str(town.version("2")), exits=PERMISSION)
    assert "version 2 of model m is there, but not recorded" in said
    assert "you lack the right to activate model m" in said
    town.run(CY, "seal", "m", "2")
    plain = town.path("models/m/versions/3")
    as_user(BO, f"os.mkdir({str(plain)!r}); open({str(plain / 'model.yaml')!r}, 'w').write('wrapper: noop')")
    town.run(CY, "seal", "m", "3")
    assert [record.op for record in town.registry.history("m")] == ["adopt", "adopt", "policy", "adopt"]
    assert town.registry.verify().ok


@pytest.mark.root
def test_nobody_touches_what_another_wrote(town: Town) -> None:
    for uid in (BO, CY):
        town.registry.grant("m", "activate", f"user:{uid}")
    town.run(BO, "publish", "m", "1", str(town.version("1")))
    town.run(CY, "policy", "m", "replicas=2")
    record, version = town.path("models/m/log/00000000000000000001.json"), town.path("models/m/versions/1")
    attempts = [
        f"os.unlink({str(record)!r})",
        f"os.rename({str(record)!r}, {str(record)!r} + '.old')",
        f"open({str(record)!r}, 'r+')",
        f"open({str(version / 'weights.bin')!r}, 'r+')",
        f"os.rename({str(version)!r}, {str(version)!r} + '-old')",
        f"os.rename({str(record.parent)!r}, {str(record.parent)!r} + '-old')",
    ]
    for attempt in attempts:
        told = as_user(CY, f"try: {attempt}\nexcept PermissionError: print('denied')")
        assert told == "denied", attempt
    assert town.registry.verify().ok


@pytest.mark.root
def test_report_says_what_each_may_and_what_i_may(town: Town) -> None:
    town.registry.grant("m", "publish", f"user:{BO}")
    town.registry.grant("m", "activate", "group:daemon")
    report = town.registry.permissions("m")
    rights = {holder.who: holder.right for holder in report.holders}
    assert rights[f"user:{BO}"] == "publish"
    assert rights["group:daemon"] == "activate"
    assert rights["everyone"] == "read"
    assert report.me is not None and report.me.right == "activate"
    assert f"user:{BO} (you): publish" in town.run(BO, "permissions", "m")
    assert f"user:{CY} (you): read" in town.run(CY, "permissions", "m")
    assert f"user:{CY} (you): read" in town.run(CY, "permissions", "new-model")


@pytest.mark.root
def test_revoked_right_is_gone_and_reading_can_be_private(town: Town) -> None:
    town.registry.publish("m", "1", town.version("1"))
    town.registry.grant("m", "activate", f"user:{BO}")
    town.run(BO, "policy", "m", "replicas=2")
    town.registry.revoke("m", "activate", f"user:{BO}")
    assert "right to activate" in town.run(BO, "policy", "m", "replicas=3", exits=PERMISSION)
    town.run(BO, "publish", "m", "2", str(town.version("2")), "--no-record")
    town.registry.revoke("m", "publish", f"user:{BO}")
    town.run(BO, "publish", "m", "3", str(town.version("3")), "--no-record", exits=PERMISSION)
    town.registry.revoke("m", "read", "everyone")
    assert "you lack the right to read model m" in town.run(CY, "show", "m", exits=PERMISSION)
    assert "active" in town.run(BO, "show", "m")
    town.registry.revoke("m", "read", f"user:{BO}")
    town.run(BO, "show", "m", exits=PERMISSION)
    assert town.registry.revoke("m", "read", f"user:{BO}") == []


@pytest.mark.root
def test_only_the_owner_grants(town: Town) -> None:
    town.registry.publish("m", "1", town.version("1"))
    said = town.run(BO, "permissions", "m", "--grant", "publish", f"user:{BO}", exits=PERMISSION)
    assert "cannot change the permissions of" in said


def test_granting_again_and_trying_change_nothing(registry: Registry) -> None:
    would = registry.grant("m", "publish", "user:root", dry_run=True)
    assert would and registry.models() == []
    registry.grant("m", "publish", "group:daemon")
    lists = PosixLists(Path(registry.url.removeprefix("file://")))
    before = lists.read("models/m/versions")
    assert registry.grant("m", "publish", "group:daemon") == []
    assert registry.grant("m", "read", "group:daemon") == []
    assert registry.revoke("m", "activate", "group:daemon") == []
    assert lists.read("models/m/versions") == before
    assert registry.grant("m", "activate", "group:daemon", dry_run=True)
    assert lists.read("models/m/versions") == before


def test_what_cannot_be_meant_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidSetting, match="everyone may not activate"):
        registry.grant("m", "activate", "everyone")
    with pytest.raises(InvalidSetting, match="knows no group no-such-group"):
        registry.grant("m", "read", "no-such-group")
    with pytest.raises(InvalidSetting, match="not in a bucket"):
        registry.s3_policy("m", "read")


def test_storage_that_says_nothing_is_told(tmp_path: Path) -> None:
    registry = Registry.init("memory://permissions", cache_dir=tmp_path / "cache")
    report = registry.permissions("m")
    assert not report.is_known and "does not say who may do what" in report.notes[0]
    with pytest.raises(InvalidSetting, match="permissions cannot be set from here"):
        registry.grant("m", "read", "everyone")


@pytest.mark.root
def test_mode_bits_do_where_there_are_no_access_lists(tmp_path: Path) -> None:
    """A ramfs knows owner, group and others only: one group can be given a right, a second one cannot."""
    place = tmp_path / "ramfs"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "ramfs", "ramfs", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a ramfs here: {mounted.stderr.strip()}")
    try:
        os.chmod(place, 0o755)
        registry = Registry.init(place / "registry", cache_dir=tmp_path / "cache")
        registry.publish("m", "1", write_version(tmp_path / "1", b"one"))
        registry.grant("m", "publish", "group:daemon")
        versions = os.stat(place / "registry/models/m/versions")
        assert versions.st_mode & 0o7777 == 0o3775
        rights = {holder.who: holder.right for holder in registry.permissions("m").holders}
        assert rights["group:daemon"] == "publish"
        with pytest.raises(InvalidSetting, match="mode bits cannot give group:games a right on models/m/versions"):
            registry.grant("m", "publish", "group:games")
        with pytest.raises(InvalidSetting, match="mode bits cannot give user:daemon"):
            registry.grant("m", "publish", "user:daemon")
        registry.revoke("m", "publish", "group:daemon")
        assert os.stat(place / "registry/models/m/versions").st_mode & 0o020 == 0
        assert registry.verify().ok
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_lists_survive_a_read_and_a_write(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o750)
    lists = PosixLists(tmp_path)
    acl = lists.read("folder")
    assert acl is not None
    for who, bits in ((Principal("user", "daemon"), 7), (Principal("group", "games"), 5), (EVERYONE, 0)):
        acl = acl.granting(who, bits, bits)
    lists.write("folder", acl)
    found = lists.read("folder")
    assert found is not None
    assert (found.named, found.mask, found.default, found.other_bits) == (acl.named, acl.mask, acl.default, 0)
    assert lists.read("absent") is None
    (tmp_path / "link").symlink_to("folder")
    assert lists.read("link") is None


def test_read_only_mount_is_called_by_its_name() -> None:
    import errno

    from clipperfs.store.oserror import storage_error

    error = storage_error(OSError(errno.EROFS, "Read-only file system"), "create", "models/m/log/1.json")
    assert isinstance(error, StorageDenied) and "mounted read-only" in (error.hint or "")
