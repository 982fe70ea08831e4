"""``key``, ``sign``, ``permissions`` and what they add to other commands, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clipperfs.cli.root import clipperfs
from clipperfs.registry import Registry


class Shell:
    """A folder with a registry, a version to publish, and a command line that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry.init(folder / "registry", cache_dir=folder / "cache", actor="ana@here")
        (folder / "v").mkdir()
        (folder / "v" / "model.yaml").write_text("wrapper: noop\n")

    def run(self, *arguments: str, exits: int = 0, **environment: str) -> Result:
        places = {
            "CLIPPERFS_REGISTRY": str(self.folder / "registry"),
            "CLIPPERFS_CACHE_DIR": str(self.folder / "cache"),
        }
        result = CliRunner().invoke(clipperfs, list(arguments), env={**places, **environment})
        assert result.exit_code == exits, result.output + result.stderr
        return result


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path)


def test_key_is_made_shown_trusted_and_untrusted(shell: Shell) -> None:
    made = shell.run("key", "generate", "ci")
    name, public = made.stdout.split()
    assert name == "ci" and "private key in ci.pem" in made.stderr
    assert public in shell.run("key", "show", "ci.pem").stdout
    shell.run("key", "generate", "ci", exits=2)
    shell.run("key", "generate", "../ci", exits=2)
    shell.run("key", "trust", "m", "ci", "ed25519:nonsense", exits=2)
    shell.run("key", "trust", "m", "ci", public)
    assert "already" in shell.run("key", "trust", "m", "ci", public).stdout
    other = shell.run("key", "generate", "two").stdout.split()[1]
    shell.run("key", "trust", "m", "ci", other, exits=4)
    assert public in shell.run("policy", "m").stdout
    shell.run("key", "untrust", "m", "ci")
    shell.run("key", "untrust", "m", "ci", exits=3)


def test_version_is_signed_by_option_by_command_or_by_environment(shell: Shell) -> None:
    public = shell.run("key", "generate", "ci").stdout.split()[1]
    shell.run("key", "trust", "m", "ci", public)
    shell.run("policy", "m", "require_signature=true")
    shell.run("publish", "m", "1", "v")
    shell.run("sign", "m", "1", exits=2)
    assert "signed    by nobody" in shell.run("show", "m/1").stdout
    shell.run("sign", "m", "1", "--key", "ci.pem")
    assert "signed    by ci" in shell.run("show", "m/1").stdout
    shell.run("publish", "m", "2", "v", "--sign-key", "ci.pem")
    shell.run("publish", "m", "3", "v", "--no-record", CLIPPERFS_SIGN_KEY="ci.pem")
    shell.run("seal", "m", "3")
    for version in ("2", "3"):
        document = json.loads(shell.run("show", f"m/{version}", "--json").stdout)
        assert [one["publisher"] for one in document["signatures"]] == ["ci"]
    history = shell.run("history", "m").stdout.splitlines()
    assert sum("(signed ci)" in line for line in history) == 1
    assert sum("(claimed)" in line for line in history) == len(history) - 2
    words = [each["attribution"] for each in json.loads(shell.run("history", "m", "--json").stdout)]
    assert words == ["claimed", "signed ci", "claimed", "claimed", "claimed"]


def test_unsigned_version_is_refused_with_the_exit_code_of_a_hook(shell: Shell) -> None:
    shell.run("publish", "m", "1", "v")
    shell.run("policy", "m", "require_signature=true")
    said = shell.run("activate", "m", "1", exits=6).stderr
    assert "publisher  refused" in said and "'clipperfs sign m 1 --key FILE'" in said
    (shell.folder / "keys").write_text("ci ed25519:" + "A" * 43 + "=\n")
    shell.run("policy", "m", "require_signature=false")
    said = shell.run("activate", "m", "1", exits=6, CLIPPERFS_TRUSTED_KEYS="keys").stderr
    assert "the trusted keys of this host (ci)" in said


def test_permissions_refuses_what_makes_no_sense(shell: Shell) -> None:
    for arguments in (
        ["--grant", "publish", "x", "--revoke", "read", "x"],
        ["--dry-run"],
        ["--principal", "x"],
        ["--grant", "own", "x"],
        ["--print-policy", "aws"],  # not in a bucket
    ):
        shell.run("permissions", "m", *arguments, exits=2)
    shell.run("publish", "m", "1", "v", "--no-record", "--activate", exits=2)


def test_policy_for_a_bucket_is_printed_without_a_connection(shell: Shell) -> None:
    place: dict[str, Any] = {"CLIPPERFS_REGISTRY": "s3://bucket/team"}
    for dialect, prohibitions in (("aws", 2), ("ceph", 1)):
        told = shell.run("permissions", "m", "--print-policy", dialect, "--right", "publish", **place).stdout
        document = json.loads(told)
        assert sum(each["Effect"] == "Deny" for each in document["Statement"]) == prohibitions
        assert "arn:aws:s3:::bucket/team/models/m/versions/*" in told


def test_rights_are_listed(shell: Shell) -> None:
    shell.run("publish", "m", "1", "v")
    assert "EVERYONE" not in shell.run("permissions", "m").stdout
    document = json.loads(shell.run("permissions", "m", "--json").stdout)
    assert document["is_known"] and document["me"]["right"] == "activate"
    assert {"who": "everyone", "right": "read"} in document["holders"]
