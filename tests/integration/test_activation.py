"""Activation with real hooks in real processes: what passes, what is refused, and what the record keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.errors import ActivationRefused, Conflict, InvalidSetting, NotFound
from tests.integration.conftest import write_version


def publish(registry: Registry, tmp_path: Path, version: str, yaml: str = "wrapper: noop\n", **more: object) -> None:
    registry.publish("m", version, write_version(tmp_path / f"source-{version}", version.encode(), yaml), **more)  # type: ignore[arg-type]


def active(registry: Registry) -> str | None:
    head = registry.head("m")
    return head.record.state.active.version if head and head.record.state.active else None


def test_publishing_is_not_activating(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    assert active(registry) is None


def test_activation_keeps_every_verdict_in_the_record_and_the_report(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", "wrapper: noop\nsample: [[1.0]]\nhooks: [{latency: {p99_ms: 5000, repeats: 3}}]\n")
    outcome = registry.activate("m", "1", reason="first")
    assert outcome.changed and outcome.record is not None
    assert [verdict.hook for verdict in outcome.record.evidence.verdicts] == ["integrity", "loadable", "latency"]
    assert all(verdict.outcome == "passed" for verdict in outcome.verdicts), outcome.verdicts
    assert outcome.record.evidence.report is not None
    assert registry.store.read(outcome.record.evidence.report.key, limit_bytes=1 << 20) is not None
    assert outcome.record.reason == "first" and outcome.record.actor == "test@here"


def test_activating_the_active_version_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", activate=True)
    before = registry.head("m")
    outcome = registry.activate("m", "1")
    assert not outcome.changed
    after = registry.head("m")
    assert before is not None and after is not None and before.seq == after.seq


def test_wrapper_that_cannot_load_is_refused_and_the_old_stays(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", activate=True)
    publish(registry, tmp_path, "2", "wrapper: sklearn\n")
    with pytest.raises(ActivationRefused) as caught:
        registry.activate("m", "2")
    verdicts = {verdict["hook"]: verdict["outcome"] for verdict in caught.value.fields["verdicts"]}
    assert verdicts["integrity"] == "passed" and verdicts["loadable"] != "passed"
    assert "loadable" in caught.value.message and caught.value.hint
    assert active(registry) == "1"
    assert registry.run_hooks("m", "2")[1].is_refusal, "the report of a refusal can be made again"


def test_unknown_wrapper_is_refused_with_the_names_that_are_installed(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", "wrapper: tensorflux\n")
    with pytest.raises(ActivationRefused, match="tensorflux"):
        registry.activate("m", "1")


def test_version_without_a_wrapper_inherits_from_the_active_one(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", "wrapper: {kind: noop, output: hello}\ninput_type: ints\n", activate=True)
    publish(registry, tmp_path, "2", "description: no wrapper named\n")
    outcome = registry.activate("m", "2")
    assert outcome.record is not None and outcome.record.state.active is not None
    assert outcome.record.state.active.inherited["wrapper"] == {"kind": "noop", "output": "hello"}
    assert outcome.record.state.active.inherited["input_type"] == "ints"
    publish(registry, tmp_path, "3", "wrapper: noop\ninput_type: floats\n")
    third = registry.activate("m", "3")
    assert third.record is not None and third.record.state.active is not None
    assert "input_type" not in third.record.state.active.inherited


def test_first_version_without_a_wrapper_is_refused_at_publishing(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="which wrapper"):
        publish(registry, tmp_path, "1", "description: nothing\n")
    with pytest.raises(NotFound):
        registry.show_version("m", "1")


def test_policy_on_publish_activates_and_a_refusal_leaves_it_published(registry: Registry, tmp_path: Path) -> None:
    registry.policy("m", {"activation": "on-publish"})
    publish(registry, tmp_path, "1")
    assert active(registry) == "1"
    with pytest.raises(ActivationRefused):
        publish(registry, tmp_path, "2", "wrapper: sklearn\n")
    assert active(registry) == "1" and registry.show_version("m", "2").state == "complete"


def test_what_is_published_again_does_not_undo_what_was_decided_since(registry: Registry, tmp_path: Path) -> None:
    registry.policy("m", {"activation": "on-publish"})
    first = write_version(tmp_path / "first", b"1", "wrapper: noop\n")
    second = write_version(tmp_path / "second", b"2", "wrapper: noop\n")
    registry.publish("m", "1", first)
    registry.publish("m", "2", second)
    assert active(registry) == "2"
    again = registry.publish("m", "1", first)  # a job that is run again
    assert again.was_there and again.activation is None and active(registry) == "2"
    assert registry.seal("m", "1").activation is None and active(registry) == "2"
    registry.rollback("m")
    assert registry.publish("m", "2", second).activation is None and active(registry) == "1"
    registry.publish("m", "2", second, activate=True)  # who means it says so
    assert active(registry) == "2"


def test_a_publish_that_was_cut_off_before_its_activation_is_ended_by_running_it_again(
    registry: Registry, tmp_path: Path
) -> None:
    first = write_version(tmp_path / "first", b"1", "wrapper: noop\n")
    second = write_version(tmp_path / "second", b"2", "wrapper: noop\n")
    registry.publish("m", "1", first, activate=True)
    registry.publish("m", "2", second)
    registry.policy("m", {"activation": "on-publish"})
    assert registry.publish("m", "2", second).was_there and active(registry) == "2"


@pytest.mark.parametrize("verb", ["activate", "rollback"])
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_damaged_active_version_can_be_left_from_a_host_that_never_fetched_it(
    registry: Registry, tmp_path: Path, verb: str, harm: str
) -> None:
    for version in ("1", "2"):
        source = write_version(tmp_path / f"source {version}", version.encode(), "wrapper: noop\n")
        registry.publish("m", version, source, activate=True)
    manifest = registry.show_version("m", "2").manifest
    assert manifest is not None
    for entry in manifest.files:
        file = Path(registry.url.removeprefix("file://"), "models/m/versions/2", entry.path)
        file.unlink()
        if harm == "changed":
            file.write_bytes(b"x" * entry.size)
    elsewhere = Registry(registry.url, cache_dir=tmp_path / "another host")
    assert (elsewhere.rollback("m") if verb == "rollback" else elsewhere.activate("m", "1")).changed
    assert active(registry) == "1"


def test_code_needs_the_policys_leave(registry: Registry, tmp_path: Path) -> None:
    source = write_version(tmp_path / "code", b"x", "wrapper: python\nsample: [[1.0, 2.0]]\n")
    (source / "wrapper.py").write_text(
        "class Wrapper:\n    def predict(self, inputs):\n        return [float(sum(row)) for row in inputs]\n"
    )
    registry.publish("m", "1", source)
    with pytest.raises(ActivationRefused, match="loadable") as caught:
        registry.activate("m", "1")
    assert "allow_code=true" in str(caught.value)
    registry.policy("m", {"allow_code": True})
    assert registry.activate("m", "1").changed


def test_rollback_runs_the_cheap_checks_only(registry: Registry, tmp_path: Path) -> None:
    yaml = "wrapper: noop\nhooks: [{command: [./gate]}]\n"
    registry.policy("m", {"allow_code": True})
    for version in ("1", "2"):
        source = write_version(tmp_path / version, version.encode(), yaml)
        (source / "gate").write_text("#!/bin/sh\ntest ! -e %s\n" % (tmp_path / "closed"))
        (source / "gate").chmod(0o755)
        registry.publish("m", version, source, activate=True)
    (tmp_path / "closed").touch()
    with pytest.raises(ActivationRefused, match="command"):
        registry.rollback("m", all_hooks=True)
    outcome = registry.rollback("m", reason="3 a.m.")
    assert outcome.changed and active(registry) == "1"
    assert [verdict.hook for verdict in outcome.verdicts] == ["integrity", "loadable"]
    assert outcome.record is not None and outcome.record.op == "rollback"
    assert outcome.record.state.previous is not None and outcome.record.state.previous.version == "2"


def test_rollback_without_a_previous_version_says_what_to_do(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", activate=True)
    with pytest.raises(NotFound, match="no previous"):
        registry.rollback("m")


def test_dry_run_runs_the_hooks_and_moves_nothing(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    outcome = registry.activate("m", "1", dry_run=True)
    assert not outcome.changed and len(outcome.verdicts) == 2 and active(registry) is None


def test_retired_version_is_not_activated_until_it_is_brought_back(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    registry.retire("m", "1")
    with pytest.raises(Conflict, match="retired") as caught:
        registry.activate("m", "1")
    assert "--undo" in (caught.value.hint or "")
    registry.retire("m", "1", undo=True)
    assert registry.activate("m", "1").changed


def test_version_in_use_is_neither_retired_nor_deleted(registry: Registry, tmp_path: Path) -> None:
    for version in ("1", "2", "3", "4"):
        publish(registry, tmp_path, version)
    registry.activate("m", "1")
    registry.activate("m", "2")
    registry.alias("m", "stable", "3")
    registry.pin("m", "4")
    for version in ("1", "2", "3", "4"):
        for verb in (registry.retire, registry.delete):
            with pytest.raises(Conflict, match="in use"):
                verb("m", version)
    registry.alias("m", "stable", None)
    registry.pin("m", "4", remove=True)
    assert registry.retire("m", "3").changed and registry.delete("m", "4").changed


def test_deleted_version_is_restorable_for_its_grace_and_then_gone(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    publish(registry, tmp_path, "2", activate=True)
    registry.delete("m", "1")
    assert registry.collect().purged == []
    registry.delete("m", "1", restore=True)
    registry.policy("m", {"grace_s": 0})
    assert registry.collect().purged == []
    registry.delete("m", "1")
    report = registry.collect()
    assert report.purged == ["m/1"] and report.freed_bytes > 0
    assert registry.show_version("m", "1").state == "purged"
    with pytest.raises(Conflict):
        registry.delete("m", "1", restore=True)
    with pytest.raises(Conflict, match="deleted"):
        publish(registry, tmp_path / "again", "1")
    assert registry.verify().ok
    assert [record.op for record in registry.history("m")][:2] == ["purged", "purge"]


def test_collect_keeps_what_a_daemon_has_loaded(registry: Registry, tmp_path: Path) -> None:
    import time

    from clipperfs import layout
    from clipperfs.documents import LoadedVersion, ReplicaStatus, ServedModel, canonical_bytes, utc_now

    publish(registry, tmp_path, "1")
    registry.policy("m", {"grace_s": 0})
    loaded = LoadedVersion(version="1", manifest="0" * 64, state="draining")
    status = ReplicaStatus(
        replica="host-1",
        host="host",
        pid=1,
        software="x",
        time=utc_now(),
        expires_unix_s=time.time() + 100,
        models={"m": ServedModel(applied_seq=1, active=None, versions=[loaded])},
    )
    registry.store.replace(layout.replica_status("host-1"), canonical_bytes(status))
    registry.delete("m", "1")
    report = registry.collect()
    assert report.purged == [] and "host-1" in report.kept[0][1]
    expired = status.model_copy(update={"expires_unix_s": time.time() - 1})
    registry.store.replace(layout.replica_status("host-1"), canonical_bytes(expired))
    assert registry.collect().purged == ["m/1"]


def test_diff_compares_files_settings_verdicts_and_predictions(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", "wrapper: {kind: noop, output: a}\nsample: [[1.0], [2.0]]\n", activate=True)
    publish(registry, tmp_path, "2", "wrapper: {kind: noop, output: b}\nsample: [[1.0], [2.0]]\n", activate=True)
    report = registry.diff("m", "1", "2")
    assert {change.path: change.change for change in report.files} == {
        "model.yaml": "changed",
        "weights.bin": "changed",
    }
    assert report.unchanged_files == 1 and "wrapper" in report.settings
    assert report.verdicts == {"integrity": ("passed", "passed"), "loadable": ("passed", "passed")}
    assert report.predictions_compared == 2 and report.predictions_different == 2
    assert report.predictions[0] == ([1.0], "a", "b")


def test_unknown_policy_name_suggests_the_nearest(registry: Registry) -> None:
    with pytest.raises(InvalidSetting) as caught:
        registry.policy("m", {"replica": 2})
    assert "replicas" in (caught.value.hint or "")
    with pytest.raises(InvalidSetting, match="replicas"):
        registry.policy("m", {"replicas": "many"})
    assert registry.policy("m", {}).record is None


def test_collect_removes_old_claims_and_stagings_and_keeps_fresh_ones(registry: Registry, tmp_path: Path) -> None:
    from clipperfs.collect import collect

    publish(registry, tmp_path, "1", activate=True)
    registry.app_register("a", input_type="ints", default_output="0", slo_us=1000)
    root = Path(registry.url.removeprefix("file://"))
    places = ["models/m/log", "models/m", "models/m/versions/1", "apps/a/log", "changes"]
    for place in places:
        (root / place / ".claim-0123").write_text("x")
    (root / "models/m/versions/.staging-1").mkdir()
    (root / "models/m/versions/.staging-1/part").write_text("x")
    assert collect(registry.workspace).stagings == []
    report = collect(registry.workspace, now_unix_s=(tmp_path.stat().st_mtime + 3 * 86_400))
    assert len(report.stagings) == len(places) + 1 and report.hints > 0
    assert not list(root.rglob(".claim-*")) and not list(root.rglob(".staging-*"))
    assert registry.verify().ok


def test_init_of_a_registry_that_is_there_writes_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipperfs.store.local import LocalStore

    monkeypatch.setattr(LocalStore, "create", lambda *_: pytest.fail("it wrote"))
    assert Registry.init(registry.url).describe() == registry.describe()
