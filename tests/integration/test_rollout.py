"""Rollouts as records: start, change, promote, abort, and what they keep others from doing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipperfs import Registry
from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import ModelState, Rollout, Verdict, canonical_bytes
from clipperfs.errors import ActivationRefused, Conflict, InvalidSetting, NotFound
from clipperfs.ledger import Draft
from tests.integration.conftest import write_version


def publish(registry: Registry, tmp_path: Path, version: str, yaml: str = "wrapper: noop\n", **more: Any) -> None:
    registry.publish("m", version, write_version(tmp_path / f"source-{version}", version.encode(), yaml), **more)


REAL_HOOKS = runner.run_hooks


def pass_all(request: CheckRequest) -> list[Verdict]:
    """Pass everything without a process for each hook."""
    return [Verdict(hook="integrity", outcome="passed"), Verdict(hook="loadable", outcome="passed")]


@pytest.fixture
def staged(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return a registry whose model ``m`` has version 1 active and versions 2 and 3 published. Its hooks are quick."""
    monkeypatch.setattr(runner, "run_hooks", pass_all)
    publish(registry, tmp_path, "1", activate=True)
    publish(registry, tmp_path, "2")
    publish(registry, tmp_path, "3")
    return registry


def state(registry: Registry) -> ModelState:
    head = registry.head("m")
    assert head is not None
    return head.record.state


def running(registry: Registry) -> Rollout:
    rollout = state(registry).rollout_in_effect
    assert rollout is not None
    return rollout


def test_start_runs_the_hooks_and_keeps_their_verdicts(staged: Registry) -> None:
    outcome = staged.rollout("m", "2", percent=5, limits={"max_error_rate": 0.2}, reason="try it")
    assert outcome.changed and outcome.record is not None and outcome.record.op == "rollout"
    assert [verdict.hook for verdict in outcome.record.evidence.verdicts] == ["integrity", "loadable"]
    assert outcome.record.evidence.report is not None
    rollout = running(staged)
    assert (rollout.kind, rollout.percent, rollout.candidate.version) == ("canary", 5, "2")
    assert rollout.candidate.seq == rollout.started_seq == outcome.record.seq
    assert (rollout.limits.max_error_rate, rollout.limits.max_default_rate) == (0.2, 0.05)
    assert state(staged).active is not None and state(staged).active.version == "1"  # type: ignore[union-attr]
    assert staged.verify("m").findings == []


def test_candidate_that_a_hook_refuses_starts_nothing(
    staged: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_hooks", REAL_HOOKS)
    publish(staged, tmp_path, "4", "wrapper: sklearn\n")
    with pytest.raises(ActivationRefused, match="loadable"):
        staged.rollout("m", "4", percent=5)
    assert state(staged).rollout is None


def test_same_again_changes_nothing_and_another_share_keeps_the_salt(staged: Registry) -> None:
    staged.rollout("m", "2", percent=5)
    before = running(staged)
    assert not staged.rollout("m", "2", percent=5).changed
    outcome = staged.rollout("m", "2", percent=25)
    assert outcome.changed and outcome.verdicts == []
    assert running(staged) == before.model_copy(update={"percent": 25.0})
    staged.rollout("m", "2", shadow=True)
    staged.rollout("m", "2", limits={"max_differ_rate": 0.1})
    assert (running(staged).kind, running(staged).percent, running(staged).salt) == ("shadow", 25, before.salt)
    assert running(staged).limits.max_differ_rate == 0.1
    assert not staged.rollout("m", "2", limits={"max_differ_rate": 0.1}).changed


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({}, "which share"),
        ({"percent": 0}, "percent"),
        ({"percent": 100.5}, "percent"),
        ({"percent": 1.005}, "two decimals"),
        ({"percent": 5, "limits": {"max_errors": 1}}, "max_errors"),
        ({"percent": 5, "limits": {"max_error_rate": 2}}, "max_error_rate"),
    ],
)
def test_terms_that_cannot_be_are_refused_before_any_hook(
    staged: Registry, terms: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_hooks", lambda request: pytest.fail("a hook ran"))
    with pytest.raises(InvalidSetting, match=words):
        staged.rollout("m", "2", **terms)
    assert state(staged).rollout is None


def test_rollout_needs_an_active_version_and_another_candidate(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_hooks", pass_all)
    publish(registry, tmp_path, "1")
    with pytest.raises(Conflict, match="no version of model m is active"):
        registry.rollout("m", "1", percent=5)
    registry.activate("m", "1")
    with pytest.raises(Conflict, match="active already"):
        registry.rollout("m", "1", percent=5)
    with pytest.raises(NotFound, match="no rollout to promote"):
        registry.promote("m")
    assert not registry.abort("m").changed


def test_activation_during_a_rollout_is_refused_and_says_what_to_do(staged: Registry) -> None:
    staged.rollout("m", "2", percent=5)
    for version in ("2", "3"):
        with pytest.raises(Conflict, match="canary rollout") as caught:
            staged.activate("m", version)
        assert caught.value.hint is not None and "--promote" in caught.value.hint and "--abort" in caught.value.hint
    with pytest.raises(Conflict, match="version 2"):
        staged.rollout("m", "3", percent=5)
    assert not staged.activate("m", "1").changed


def test_candidate_can_be_neither_retired_nor_deleted(staged: Registry) -> None:
    staged.rollout("m", "2", shadow=True)
    for verb in (staged.retire, staged.delete):
        with pytest.raises(Conflict, match="shadow rollout"):
            verb("m", "2")
    staged.abort("m")
    staged.retire("m", "2")
    with pytest.raises(Conflict, match="retired"):
        staged.rollout("m", "2", percent=5)


def test_promotion_runs_the_hooks_again_and_ends_the_rollout_in_one_record(staged: Registry) -> None:
    staged.rollout("m", "2", percent=5)
    started = running(staged)
    with pytest.raises(Conflict, match="version 2"):
        staged.promote("m", "3")
    outcome = staged.promote("m", "2", reason="good")
    assert outcome.record is not None and outcome.record.op == "promote" and outcome.record.evidence.verdicts
    after = state(staged)
    assert after.active is not None and after.previous is not None and after.rollout is None
    assert (after.active.version, after.previous.version) == ("2", "1")
    assert after.active.manifest == started.candidate.manifest
    assert after.active.inherited == started.candidate.inherited, "a daemon need not load it again"


def test_promotion_is_refused_when_the_policy_has_a_new_hook_that_refuses(
    staged: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged.rollout("m", "2", percent=5)
    monkeypatch.setattr(runner, "run_hooks", REAL_HOOKS)
    staged.policy("m", {"hooks": ["no-such-hook"]})
    with pytest.raises(ActivationRefused):
        staged.promote("m")
    assert running(staged).candidate.version == "2"


def test_abort_ends_it_with_a_reason_and_only_the_one_that_was_judged(staged: Registry) -> None:
    staged.rollout("m", "2", percent=5)
    first = running(staged).candidate.seq
    staged.abort("m", reason="wrong")
    staged.rollout("m", "2", percent=5)
    assert not staged.abort("m", candidate_seq=first).changed, "another rollout of the same version goes on"
    outcome = staged.abort("m", candidate_seq=running(staged).candidate.seq, reason="wrong again")
    assert outcome.record is not None and (outcome.record.op, outcome.record.reason) == ("abort", "wrong again")
    assert state(staged).rollout is None
    assert [one.op for one in staged.history("m", limit=4)] == ["abort", "rollout", "abort", "rollout"]


def test_rollback_ends_the_rollout_in_the_same_record(staged: Registry) -> None:
    staged.activate("m", "2")
    staged.rollout("m", "3", percent=5)
    outcome = staged.rollback("m")
    assert outcome.record is not None and outcome.record.op == "rollback"
    assert state(staged).rollout is None
    assert state(staged).active is not None and state(staged).active.version == "1"  # type: ignore[union-attr]


def test_rollback_to_what_is_active_ends_the_rollout_only(staged: Registry) -> None:
    staged.rollout("m", "2", percent=5)
    before = state(staged)
    with pytest.raises(NotFound) as caught:
        staged.rollback("m")
    assert caught.value.hint is not None and "--abort" in caught.value.hint
    assert staged.rollback("m", to="1").changed
    assert state(staged) == before.model_copy(update={"rollout": None})
    assert not staged.rollback("m", to="1").changed


def test_expected_number_holds_for_every_verb(staged: Registry) -> None:
    head = staged.head("m")
    assert head is not None
    stale, now = head.seq - 1, head.seq
    with pytest.raises(Conflict, match="newest record"):
        staged.rollout("m", "2", percent=5, expect_seq=stale)
    staged.rollout("m", "2", percent=5, expect_seq=now)
    for verb in (staged.promote, staged.abort):
        with pytest.raises(Conflict, match="newest record"):
            verb("m", expect_seq=now)
    with pytest.raises(Conflict, match="newest record"):
        staged.rollout("m", "2", percent=6, expect_seq=now)
    staged.promote("m", expect_seq=now + 1)


def while_hooks_run(monkeypatch: pytest.MonkeyPatch, does: Any) -> None:
    """Have another writer act, once, while the hooks run."""
    calls = iter([does])

    def run_hooks(request: CheckRequest) -> list[Verdict]:
        next(calls, lambda: None)()
        return pass_all(request)

    monkeypatch.setattr(runner, "run_hooks", run_hooks)


def test_activation_loses_to_a_rollout_that_began_while_its_hooks_ran(
    staged: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_hooks_run(monkeypatch, lambda: staged.rollout("m", "2", percent=5))
    with pytest.raises(Conflict, match="another writer"):
        staged.activate("m", "3")
    assert running(staged).candidate.version == "2"


def test_promotion_loses_to_an_abort_and_survives_another_share(
    staged: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged.rollout("m", "2", percent=5)
    while_hooks_run(monkeypatch, lambda: staged.abort("m"))
    with pytest.raises(Conflict, match="another writer"):
        staged.promote("m")
    assert state(staged).active is not None and state(staged).active.version == "1"  # type: ignore[union-attr]
    staged.rollout("m", "2", percent=5)
    while_hooks_run(monkeypatch, lambda: staged.rollout("m", "2", percent=50))
    assert staged.promote("m").changed


def test_rollback_wins_over_whatever_happens_to_a_rollout_meanwhile(
    staged: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged.activate("m", "2")
    while_hooks_run(monkeypatch, lambda: staged.rollout("m", "3", percent=5))
    assert staged.rollback("m").changed
    assert state(staged).rollout is None


def test_what_a_writer_left_behind_that_knows_no_rollouts_means_nothing(staged: Registry) -> None:
    staged.rollout("m", "2", percent=5)
    ledger = staged.workspace.model_ledger("m")

    def activate_without_looking(head: Any) -> Draft:
        candidate = head.record.state.rollout.candidate
        return Draft("activate", head.record.state.model_copy(update={"active": candidate}))

    ledger.append(activate_without_looking, actor="older@host")
    assert state(staged).rollout is not None and state(staged).rollout_in_effect is None
    assert staged.show_version("m", "2").rollout is None
    staged.activate("m", "3")
    assert state(staged).rollout is None


def test_publish_with_on_publish_waits_for_the_rollout(staged: Registry, tmp_path: Path) -> None:
    staged.policy("m", {"activation": "on-publish"})
    staged.rollout("m", "2", percent=5)
    publish(staged, tmp_path, "4")
    assert state(staged).active is not None and state(staged).active.version == "1"  # type: ignore[union-attr]
    with pytest.raises(Conflict, match="rollout"):
        publish(staged, tmp_path, "5", activate=True)


def test_publishing_a_candidate_again_after_its_abort_does_not_activate_it(staged: Registry, tmp_path: Path) -> None:
    staged.policy("m", {"activation": "on-publish"})
    staged.rollout("m", "2", percent=5)
    staged.abort("m")
    assert staged.seal("m", "2").activation is None
    assert state(staged).active.version == "1"  # type: ignore[union-attr]


def test_a_limit_in_the_policy_that_no_daemon_would_look_at_is_refused(staged: Registry) -> None:
    with pytest.raises(InvalidSetting, match="no limit 'max_eror_rate'") as caught:
        staged.policy("m", {"rollout_limits": {"max_eror_rate": 0.01}})
    assert "max_error_rate" in str(caught.value.hint)


def test_unknown_fields_of_a_rollout_survive_a_change(staged: Registry) -> None:
    staged.rollout("m", "2", percent=5)

    def add(head: Any) -> Draft:
        tree = head.record.state.model_dump()
        tree["rollout"]["schedule"] = [1, 5, 25]
        tree["rollout"]["limits"]["max_drift"] = 0.5
        return Draft("rollout", ModelState.model_validate(tree))

    staged.workspace.model_ledger("m").append(add, actor="newer@host")
    staged.rollout("m", "2", percent=10, limits={"min_queries": 7})
    tree = running(staged).model_dump()
    assert tree["schedule"] == [1, 5, 25] and tree["limits"]["max_drift"] == 0.5 and tree["limits"]["min_queries"] == 7


def test_policy_says_what_a_rollout_may_not_exceed_until_its_start_says_otherwise(staged: Registry) -> None:
    staged.policy("m", {"rollout_limits": {"max_error_rate": 0.01, "min_queries": 5}})
    begun = staged.rollout("m", "2", percent=5, limits={"min_queries": 7}).record
    assert begun is not None and begun.state.rollout is not None
    assert (begun.state.rollout.limits.max_error_rate, begun.state.rollout.limits.min_queries) == (0.01, 7)
    staged.abort("m")
    back = staged.policy("m", {"rollout_limits": None}).record
    assert back is not None and b"rollout_limits" not in canonical_bytes(back.state.policy)
    with pytest.raises(InvalidSetting, match="max_error_rate"):
        staged.policy("m", {"rollout_limits": {"max_error_rate": 5}})
