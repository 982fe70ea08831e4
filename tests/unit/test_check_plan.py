"""Which hooks are planned, and that a request survives its way to the child."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipperfs.checking.plan import plan_hooks
from clipperfs.checking.request import CheckRequest, CheckSubject, PlannedHook
from clipperfs.documents import FileEntry, Manifest, Policy, VersionSettings


def names(policy: Policy, settings: VersionSettings, *, emergency: bool = False) -> list[str]:
    return [hook.name for hook in plan_hooks(policy, settings, emergency=emergency)]


def test_cheap_checks_come_first_then_the_policys_then_the_versions() -> None:
    policy = Policy.model_validate({"hooks": ["signature", {"quality": {"floor": 0.9}}]})
    settings = VersionSettings.model_validate({"hooks": ["smoke", {"latency": {"p99_ms": 20}}]})
    planned = plan_hooks(policy, settings, emergency=False)
    assert [hook.name for hook in planned] == ["integrity", "loadable", "signature", "quality", "smoke", "latency"]
    assert [hook.from_policy for hook in planned] == [True, True, True, True, False, False]


def test_emergency_runs_only_the_cheap_checks() -> None:
    policy = Policy.model_validate({"hooks": ["signature"]})
    assert names(policy, VersionSettings.model_validate({"hooks": ["smoke"]}), emergency=True) == [
        "integrity",
        "loadable",
    ]


def test_version_without_hooks_gets_the_cheap_checks() -> None:
    assert names(Policy(), VersionSettings()) == ["integrity", "loadable"]


def test_same_name_and_options_run_once_where_they_came_first() -> None:
    policy = Policy.model_validate({"hooks": ["smoke", "integrity", {"smoke": {"tolerance": 0.1}}]})
    settings = VersionSettings.model_validate({"hooks": [{"smoke": {"tolerance": 0.1}}, "smoke", "loadable"]})
    planned = plan_hooks(policy, settings, emergency=False)
    assert [(hook.name, hook.options) for hook in planned] == [
        ("integrity", {}),
        ("loadable", {}),
        ("smoke", {}),
        ("smoke", {"tolerance": 0.1}),
    ]
    assert planned[2].from_policy, "what the policy asks for is the policy's, whatever the version repeats"


def test_policys_time_limit_holds_unless_the_hook_has_its_own() -> None:
    policy = Policy.model_validate({"hook_timeout_s": 7, "hooks": [{"command": {"argv": ["x"], "timeout_s": 90}}]})
    planned = plan_hooks(policy, VersionSettings(), emergency=False)
    assert [hook.time_limit_s for hook in planned] == [7, 7, 90]
    assert planned[2].options == {"argv": ["x"]}, "the hook does not see its time limit among its options"


@pytest.mark.parametrize("value", [0, -1, "5", True, float("nan"), float("inf"), 86_401, None, [1]])
def test_unusable_time_limit_stays_an_option_for_the_run_to_report(value: Any) -> None:
    settings = VersionSettings.model_validate({"hooks": [{"name": "smoke", "options": {"timeout_s": value}}]})
    hook = plan_hooks(Policy(hook_timeout_s=7), settings, emergency=False)[2]
    assert hook.time_limit_s == 7
    assert "timeout_s" in hook.options


def test_request_survives_the_way_to_the_child() -> None:
    settings = VersionSettings.model_validate(
        {"wrapper": {"kind": "python", "entrypoint": "a.py:B"}, "sample": [["é"]]}
    )
    manifest = Manifest(
        created="2025-01-01T00:00:00.000Z",
        created_by="test",
        files=[FileEntry(path="a.py", size=3, sha256="ab" * 32)],
        settings=settings,
    )
    subject = CheckSubject("1.0", "cd" * 32, manifest, settings, Path("/x/y"))
    for active in (None, subject):
        request = CheckRequest(
            model="m",
            candidate=subject,
            active=active,
            hooks=[PlannedHook("smoke", {"requests": [{"input": [1.5], "output": None}]}, True, 2.5)],
            allow_code=True,
            load_timeout_s=3.0,
            predict_timeout_s=4.0,
            registry_url="file:///r",
        )
        assert CheckRequest.from_json(request.to_json()) == request
