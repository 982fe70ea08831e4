"""Every command that works on a registry, run as a user types it: what it prints, what it writes, how it exits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clipperfs.cli.root import clipperfs
from clipperfs.documents import Verdict
from clipperfs.registry import Registry

HOSTILE = "first\x1b[2J\u202eevil"


class Shell:
    """A folder with a registry, and a command line that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder / "registry")
        self.registry = Registry.init(self.url, cache_dir=folder / "cache")

    def run(self, *arguments: str, exits: int = 0, stdin: str | None = None) -> Result:
        environment = {"CLIPPERFS_REGISTRY": self.url, "CLIPPERFS_CACHE_DIR": str(self.folder / "cache")}
        result = CliRunner().invoke(clipperfs, list(arguments), env=environment, input=stdin)
        assert result.exit_code == exits, result.output + result.stderr
        return result

    def json(self, *arguments: str, exits: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", exits=exits).stdout)

    def lines(self, *arguments: str, exits: int = 0) -> list[Any]:
        return [json.loads(line) for line in self.run(*arguments, "--json", exits=exits).stdout.splitlines()]

    def error(self, *arguments: str, exits: int) -> Any:
        result = self.run(*arguments, "--json", exits=exits)
        assert result.stdout == ""
        return json.loads(result.stderr)

    def source(self, name: str, **files: str) -> str:
        """Make a folder to publish, with the no-op wrapper."""
        folder = self.folder / name
        folder.mkdir()
        content = {"model.yaml": "wrapper: noop\ninput_type: doubles\nsample: [[1.0]]\n", "weights": name, **files}
        for path, text in content.items():
            (folder / path).write_text(text)
        return str(folder)

    def published(self, *versions: str) -> None:
        for version in versions:
            self.registry.publish("digits", version, self.source(f"source-{version}"))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path)


def accept_all(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> None:
    """Let hook runs give these verdicts without starting processes."""
    from clipperfs.checking import runner

    given = list(verdicts) or [Verdict(hook="integrity", outcome="passed"), Verdict(hook="loadable", outcome="passed")]
    monkeypatch.setattr(runner, "run_hooks", lambda request: given)


@pytest.fixture
def accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    accept_all(monkeypatch)


def test_init_creates_a_registry_and_is_idempotent(shell: Shell) -> None:
    first = shell.json("init", str(shell.folder / "new"))
    assert shell.json("init", str(shell.folder / "new")) == first
    assert (shell.folder / "new" / "registry.json").is_file()
    assert first["registry"]["schema"] == "clipperfs.registry.v1"


def test_publish_prints_what_it_wrote_and_again_changes_nothing(shell: Shell) -> None:
    source = shell.source("s")
    first = shell.json("publish", "digits", "1", source, "--reason", "why not")
    assert (first["model"], first["version"], first["was_there"], first["activation"]) == ("digits", "1", False, None)
    assert first["record"]["reason"] == "why not"
    again = shell.json("publish", "digits", "1", source)
    assert again["was_there"] is True
    assert again["manifest_digest"] == first["manifest_digest"]
    assert "was there already" in shell.run("publish", "digits", "1", source).stdout


def test_publish_of_other_content_under_a_taken_version_is_a_conflict(shell: Shell) -> None:
    shell.published("1")
    assert shell.error("publish", "digits", "1", shell.source("other"), exits=4)["error"] == "Conflict"


@pytest.mark.parametrize(
    ("arguments", "exits"),
    [
        (["publish", "Digits", "1", "."], 2),
        (["publish", "digits", "../1", "."], 2),
        (["publish", "digits", "1", "nowhere"], 2),
        (["publish", "digits", "1", "empty"], 2),
        (["manifest", "nowhere"], 2),
        (["seal", "digits", "9"], 3),
        (["activate", "digits", "9"], 3),
        (["rollback", "digits"], 3),
        (["show", "digits"], 3),
        (["show", "digits/9"], 3),
        (["history", "digits"], 3),
        (["diff", "digits", "1", "2"], 3),
        (["verify", "digits/9"], 3),
        (["retire", "digits", "9"], 3),
        (["delete", "digits", "9"], 3),
        (["pin", "digits", "9"], 3),
        (["alias", "digits", "a", "9"], 3),
        (["alias", "digits", "a"], 2),
        (["alias", "digits", "a", "9", "--remove"], 2),
        (["hook", "run", "digits", "9"], 3),
        (["app", "show", "none"], 3),
        (["app", "link", "none", "digits"], 3),
        (["app", "unlink", "none"], 3),
        (["app", "delete", "none"], 3),
        (["app", "register", "a", "--input-type", "ints", "--default-output", "0", "--slo", "soon"], 2),
        (["app", "register", "metrics", "--input-type", "ints", "--default-output", "0", "--slo", "1s"], 2),
        (["policy", "digits", "replica=2"], 2),
        (["policy", "digits", "replicas"], 2),
        (["policy", "digits", "replicas=x"], 2),
        (["policy", "digits", "replicas=1", "replicas=2"], 2),
        (["policy", "digits", "hooks=[{"], 2),
        (["policy", "digits", "hooks=[{latency: .nan}]"], 2),
        (["policy", "digits", "hooks=[{smoke: {since: 2026-01-01}}]"], 2),
        (["policy", "digits", "replicas=1", "--reason", "x" * 1001], 2),
        (["policy", "digits", "replicas=1", "--reason", "\udcff"], 2),
        (["app", "register", "a", "--input-type", "ints", "--default-output", "\udcff", "--slo", "1s"], 2),
        (["app", "register", "a", "--input-type", "ints", "--default-output", "", "--slo", "0"], 2),
        (["publish", "digits", "1", "empty", "--wrapper", ""], 2),
        (["start", "--frontends", "1000"], 2),
        (["logs", "--state-dir", "/dev/null"], 3),
        (["activate", "digits", "1", "--dry-run", "--wait", "1"], 2),
        (["logs"], 3),
    ],
    ids=ascii,
)
def test_what_cannot_be_done_has_its_exit_code_and_one_error_document(
    shell: Shell, arguments: list[str], exits: int
) -> None:
    (shell.folder / "empty").mkdir()
    document = shell.error(*arguments, exits=exits)
    assert document["message"]
    assert shell.run(*arguments, exits=exits).stderr.count("Error: ") == 1


def test_manifest_then_a_plain_copy_then_seal_publishes(shell: Shell) -> None:
    source = shell.source("s")
    written = shell.json("manifest", source)
    assert written["schema"] == "clipperfs.manifest.v1"
    assert {file["path"] for file in written["files"]} == {"model.yaml", "weights"}
    shutil.copytree(source, Path(shell.url) / "models" / "digits" / "versions" / "1")
    assert shell.json("seal", "digits", "1")["version"] == "1"
    assert shell.json("show", "digits/1")["state"] == "complete"


def test_incoming_version_is_shown_with_what_is_missing(shell: Shell) -> None:
    source = shell.source("s")
    shell.run("manifest", source)
    target = Path(shell.url) / "models" / "digits" / "versions" / "3"
    target.mkdir(parents=True)
    shutil.copy(Path(source) / "manifest.json", target)
    shutil.copy(Path(source) / "model.yaml", target)
    assert shell.lines("list")[0]["versions"] == ["3"]
    assert shell.lines("list", "--states")[0]["incoming"] == ["3"]
    assert "incoming: 3" in shell.run("list", "--states").stdout
    assert shell.json("show", "digits/3")["missing"] == ["weights"]
    assert "weights" in shell.run("show", "digits").stdout
    assert "missing   weights" in shell.run("show", "digits/3").stdout
    assert shell.error("activate", "digits", "3", exits=5)["error"] == "IncompleteVersion"
    assert shell.error("seal", "digits", "3", exits=5)["error"] == "IncompleteVersion"


@pytest.mark.usefixtures("accepting")
def test_activate_moves_the_pointer_and_says_what_was_before(shell: Shell) -> None:
    shell.published("1", "2")
    assert "1 is active (was nothing)" in shell.run("activate", "digits", "1").stdout
    outcome = shell.json("activate", "digits", "2", "--reason", "better")
    assert outcome["changed"] is True
    assert outcome["record"]["state"]["active"]["version"] == "2"
    assert [verdict["outcome"] for verdict in outcome["verdicts"]] == ["passed", "passed"]
    again = shell.json("activate", "digits", "2")
    assert again["changed"] is False
    assert "already" in shell.run("activate", "digits", "2").stdout


@pytest.mark.usefixtures("accepting")
def test_publish_with_activate_does_both(shell: Shell) -> None:
    document = shell.json("publish", "digits", "1", shell.source("s"), "--activate")
    assert document["activation"]["record"]["state"]["active"]["version"] == "1"


@pytest.mark.usefixtures("accepting")
def test_dry_run_runs_the_hooks_and_writes_nothing(shell: Shell) -> None:
    shell.published("1")
    before = len(shell.registry.history("digits"))
    assert "nothing was written" in shell.run("activate", "digits", "1", "--dry-run").stdout
    assert len(shell.registry.history("digits")) == before


@pytest.mark.usefixtures("accepting")
def test_conflict_shows_both_records(shell: Shell) -> None:
    shell.published("1")
    result = shell.run("activate", "digits", "1", "--expect-seq", "7", exits=4)
    assert "expected: record 7" in result.stderr
    assert "found:    record 1: publish 1 by " in result.stderr
    document = shell.error("activate", "digits", "1", "--expect-seq", "7", exits=4)
    assert (document["expected_seq"], document["found"]["seq"]) == (7, 1)


def test_writer_that_comes_between_is_shown_beside_ours(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipperfs.checking import runner

    shell.published("1")

    def meanwhile(request: Any) -> list[Verdict]:
        Registry(shell.url, actor="rival").policy("digits", {"replicas": 2}, reason="I was first")
        return [Verdict(hook="loadable", outcome="passed")]

    monkeypatch.setattr(runner, "run_hooks", meanwhile)
    stderr = shell.run("activate", "digits", "1", "--reason", "mine", exits=4).stderr
    assert "expected: record 1: publish 1" in stderr
    assert "found:    record 2: policy by rival" in stderr
    assert "(I was first)" in stderr
    assert "mine:     on record 1: activate 1" in stderr


def test_refusal_shows_every_verdict_and_what_next(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.published("1")
    accept_all(
        monkeypatch,
        Verdict(hook="integrity", outcome="passed"),
        Verdict(hook="quality", outcome="refused", reason=f"accuracy 0.31 {HOSTILE}", next_step="train longer"),
    )
    stderr = shell.run("activate", "digits", "1", exits=6).stderr
    assert "integrity  passed" in stderr
    assert "quality    refused  accuracy 0.31 first\\x1b[2J\\u202eevil → train longer" in stderr
    assert "\x1b" not in stderr
    assert "\u202e" not in stderr
    document = shell.error("activate", "digits", "1", exits=6)
    assert [verdict["hook"] for verdict in document["verdicts"]] == ["integrity", "quality"]
    assert shell.lines("list")[0]["active"] is None
    assert shell.run("hook", "run", "digits", "1", exits=6).stdout.startswith("HOOK")
    assert shell.json("hook", "run", "digits", "1", exits=6)["accepted"] is False


@pytest.mark.usefixtures("accepting")
def test_rollback_goes_to_the_previous_version_or_to_the_named_one(shell: Shell) -> None:
    shell.published("1", "2", "3")
    for version in ("1", "2", "3"):
        shell.run("activate", "digits", version)
    assert "2 is active (was 3)" in shell.run("rollback", "digits", "--reason", "worse").stdout
    assert shell.json("rollback", "digits", "--to", "1")["record"]["op"] == "rollback"


@pytest.mark.usefixtures("accepting")
def test_wait_without_daemons_times_out_and_the_record_stands(shell: Shell) -> None:
    shell.published("1")
    document = shell.error("activate", "digits", "1", "--wait", "1", "--timeout", "1ms", exits=7)
    assert document["serving"] == []
    assert shell.lines("list")[0]["active"] == "1"


@pytest.mark.usefixtures("accepting")
def test_verify_warns_of_a_copy_under_a_name_that_is_none(shell: Shell) -> None:
    (shell.folder / "registry/models/Fraud/versions/1").mkdir(parents=True)
    (shell.folder / "registry/models/digits/versions/x y").mkdir(parents=True)
    report = shell.json("verify")
    assert report["ok"]
    assert [finding["subject"] for finding in report["findings"]] == ["models/Fraud", "models/digits/versions/x y"]
    assert "'Fraud' may hold only" in report["findings"][0]["message"]
    assert "no models yet" in shell.run("list").stdout


def test_history_names_the_operations_when_one_is_misspelt(shell: Shell) -> None:
    shell.registry.policy("digits", {"replicas": 2})
    result = shell.run("history", "digits", "--op", "rolback")
    assert "no operation 'rolback'" in result.stderr and "rollback" in result.stderr
    assert "note:" not in shell.run("history", "digits", "--op", "policy").stderr


def test_history_is_newest_first_and_hostile_text_is_visible(shell: Shell) -> None:
    shell.published("1")
    shell.run("activate", "digits", "1", "--reason", HOSTILE)
    text = shell.run("history", "digits").stdout
    assert text.splitlines()[1].split()[:4][0::2] == ["2", "activate"]
    assert "first\\x1b[2J\\u202eevil" in text
    assert "\x1b" not in text
    records = shell.json("history", "digits")
    assert [record["seq"] for record in records] == [2, 1]
    assert records[0]["reason"] == HOSTILE
    assert len(shell.json("history", "digits", "--limit", "1")) == 1


@pytest.mark.usefixtures("accepting")
def test_list_and_show_name_roles(shell: Shell) -> None:
    assert "no models yet" in shell.run("list").stdout
    assert shell.lines("list") == []
    shell.published("1", "2")
    shell.run("activate", "digits", "1")
    shell.run("activate", "digits", "2")
    shell.run("alias", "digits", "stable", "1")
    shell.run("pin", "digits", "1")
    [row] = shell.lines("list")
    assert (row["active"], row["previous"], row["versions"], row["seq"]) == ("2", "1", ["1", "2"], 6)
    assert shell.run("list").stdout.splitlines()[1].split()[:6] == ["digits", "2", "1", "2", "6", "pin"]
    text = shell.run("show", "digits").stdout
    assert "previous, pinned, alias stable" in text
    assert "stable=1" in text
    assert "model.yaml" in shell.run("show", "digits/1").stdout
    assert shell.json("show", "digits")["model"] == "digits"


def test_list_takes_a_pattern_and_a_limit(shell: Shell) -> None:
    source = shell.source("s")
    for name in ("fraud-eu", "fraud-us", "digits"):
        shell.registry.publish(name, "1", source)
    assert [row["model"] for row in shell.lines("list", "fraud-*")] == ["fraud-eu", "fraud-us"]
    assert [row["model"] for row in shell.lines("list", "--limit", "2")] == ["digits", "fraud-eu"]
    assert shell.run("list", "x*").stdout == "no model matches\n"


def test_long_list_is_printed_piece_by_piece_under_one_heading(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipperfs.cli.show.ROWS_AT_ONCE", 2)
    source = shell.source("s")
    for name in ("a", "b", "c-is-longer"):
        shell.registry.publish(name, "1", source)
    heading, *rows = shell.run("list").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["a", "b", "c-is-longer"]
    assert {row[heading.index("ACTIVE")] for row in rows} == {"-"}


def test_model_with_a_damaged_log_does_not_hide_the_others(shell: Shell) -> None:
    shell.published("1")
    shell.registry.publish("other", "1", shell.source("o"))
    log = Path(shell.url) / "models" / "digits" / "log" / "00000000000000000001.json"
    log.chmod(0o600)
    log.write_text("{}")
    result = shell.run("list", exits=5)
    assert "DAMAGED" in result.stdout
    assert "\nother " in result.stdout
    assert shell.lines("list", exits=5)[0]["error"]["error"] == "DamagedLog"
    assert shell.error("history", "digits", exits=5)["error"] == "DamagedLog"


def test_verify_finds_a_changed_byte(shell: Shell) -> None:
    shell.published("1")
    assert shell.json("verify")["ok"] is True
    assert "all as it should be" in shell.run("verify", "digits/1").stdout
    payload = Path(shell.url) / "models" / "digits" / "versions" / "1" / "weights"
    payload.chmod(0o600)
    payload.write_text("Source-1")
    report = shell.json("verify", "digits", exits=5)
    assert report["ok"] is False
    assert any("weights" in finding["subject"] + finding["message"] for finding in report["findings"])
    assert "NOT OK" in shell.run("verify", exits=5).stdout


def test_diff_shows_files_and_settings(shell: Shell) -> None:
    shell.published("1")
    source = shell.source("s", extra="x")
    (Path(source) / "model.yaml").write_text("wrapper: noop\ninput_type: ints\nsample: [[1]]\n")
    shell.registry.publish("digits", "2", source)
    text = shell.run("diff", "digits", "1", "2", "--no-predictions").stdout
    assert "added" in text
    assert "input_type" in text
    assert "not compared" in text
    report = shell.json("diff", "digits", "1", "2", "--no-predictions")
    assert {file["path"]: file["change"] for file in report["files"]} == {
        "extra": "added",
        "model.yaml": "changed",
        "weights": "changed",
    }
    assert "files: the same 2 files" in shell.run("diff", "digits", "1", "1", "--no-predictions").stdout


@pytest.mark.usefixtures("accepting")
def test_alias_and_pin_are_set_and_removed(shell: Shell) -> None:
    shell.published("1")
    assert "alias stable is version 1, record 2" in shell.run("alias", "digits", "stable", "1").stdout
    assert "already" in shell.run("alias", "digits", "stable", "1").stdout
    assert shell.json("alias", "digits", "stable", "--remove")["record"]["state"]["aliases"] == {}
    assert "1 is pinned" in shell.run("pin", "digits", "1").stdout
    assert shell.json("pin", "digits", "1", "--remove")["record"]["state"]["pins"] == []


def test_policy_reads_words_as_the_policy_means_them(shell: Shell) -> None:
    shell.published("1")
    changes = ["cache=off", "allow_code=true", "replicas=2", "keep_previous_s=1.5", "activation=on-publish"]
    policy = shell.json("policy", "digits", *changes, 'hooks=[smoke, {"latency": {"p99_ms": 20}}]')["policy"]
    assert (policy["cache"], policy["allow_code"], policy["replicas"], policy["keep_previous_s"]) == (
        "off",
        True,
        2,
        1.5,
    )
    assert policy["hooks"] == [{"name": "smoke", "options": {}}, {"name": "latency", "options": {"p99_ms": 20}}]
    assert shell.json("policy", "digits")["policy"] == policy
    result = shell.run("policy", "digits", "cache=off")
    assert "nothing was written" in result.stderr
    assert "on-publish" in result.stdout
    assert shell.json("policy", "digits", "replicas=", "hooks=")["policy"]["replicas"] == 1


def test_policy_takes_one_hook_without_brackets(shell: Shell) -> None:
    shell.published("1")
    assert shell.json("policy", "digits", "hooks=smoke")["policy"]["hooks"] == [{"name": "smoke", "options": {}}]
    policy = shell.json("policy", "digits", "hooks={latency: {p99_ms: 20}}")["policy"]
    assert policy["hooks"][0]["options"] == {"p99_ms": 20}


def test_policy_of_a_wrong_key_names_the_nearest(shell: Shell) -> None:
    assert "Did you mean replicas?" in shell.run("policy", "digits", "replica=2", exits=2).stderr


@pytest.mark.usefixtures("accepting")
def test_retired_and_deleted_versions_come_back(shell: Shell) -> None:
    shell.published("1")
    shell.run("retire", "digits", "1")
    assert shell.error("activate", "digits", "1", exits=4)["error"] == "Conflict"
    shell.run("retire", "digits", "1", "--undo")
    assert "deleted, record" in shell.run("delete", "digits", "1").stdout
    assert shell.json("gc", "--dry-run")["purged"] == []
    assert "kept" in shell.run("gc").stdout
    shell.run("delete", "digits", "1", "--restore")
    shell.run("activate", "digits", "1")
    assert "active" in shell.error("delete", "digits", "1", exits=4)["message"]


def test_gc_purges_after_the_grace(shell: Shell) -> None:
    shell.published("1")
    shell.run("policy", "digits", "grace_s=0")
    shell.run("delete", "digits", "1")
    assert "would remove" in shell.run("gc", "--dry-run").stdout
    assert len(shell.json("gc")["purged"]) == 1
    assert shell.json("show", "digits/1")["state"] == "purged"


def test_application_lives_and_ends(shell: Shell) -> None:
    shell.published("1")
    arguments = ["app", "register", "reader", "--input-type", "doubles", "--default-output", HOSTILE, "--slo", "1.5s"]
    state = shell.json(*arguments, "--link", "digits")["record"]["state"]
    assert (state["slo_us"], state["links"]) == (1_500_000, [{"model": "digits"}])
    assert "already" in shell.run(*arguments).stdout
    text = shell.run("app", "show", "reader").stdout
    assert "1.5s" in text
    assert "first\\x1b[2J" in text
    assert shell.json("app", "list")[0]["app"] == "reader"
    assert "reader" in shell.run("app", "list").stdout
    assert "no model" in shell.run("app", "unlink", "reader").stdout
    assert "linked to model digits" in shell.run("app", "link", "reader", "digits").stdout
    shell.run("app", "delete", "reader")
    assert shell.json("app", "list") == []


@pytest.mark.parametrize(("slo", "slo_us"), [("100ms", 100_000), ("20", 20_000), ("250us", 250)])
def test_latency_objective_carries_a_unit_or_is_milliseconds(shell: Shell, slo: str, slo_us: int) -> None:
    arguments = ["app", "register", "a", "--input-type", "ints", "--default-output", "-1", "--slo", slo]
    assert shell.json(*arguments)["record"]["state"]["slo_us"] == slo_us


def test_hook_list_shows_hooks_and_wrappers(shell: Shell) -> None:
    rows = shell.json("hook", "list")
    assert {"kind": "hook", "name": "loadable", "object": "clipperfs.hooks.loadable:Loadable", "always": True} in rows
    assert any(row["kind"] == "wrapper" and row["name"] == "sklearn" for row in rows)
    assert "always runs" in shell.run("hook", "list").stdout


def test_wrapper_that_is_not_installed_here_is_noted(shell: Shell) -> None:
    result = shell.run("publish", "digits", "1", shell.source("s"), "--wrapper", "skleran")
    assert "did you mean sklearn?" in result.stderr


def test_policy_of_a_model_without_records_is_said_to_be_the_default(shell: Shell) -> None:
    assert "nothing is recorded of model none" in shell.run("policy", "none").stderr


def test_actor_of_the_settings_is_recorded(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPPERFS_ACTOR", "ci@job-7")
    shell.run("publish", "digits", "1", shell.source("s"))
    assert shell.json("history", "digits")[0]["actor"] == "ci@job-7"


@pytest.mark.parametrize("arguments", [["status"], ["reload"], ["watch"], ["stop"]])
def test_without_a_daemon_only_stop_succeeds(shell: Shell, arguments: list[str]) -> None:
    if arguments == ["stop"]:
        assert shell.json("stop") == {"stopped": False}
    else:
        assert shell.error(*arguments, exits=3)["error"] == "DaemonNotRunning"
