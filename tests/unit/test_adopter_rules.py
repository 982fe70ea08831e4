"""When a plain copy becomes a version: never too early, and never against the policy."""

from __future__ import annotations

from typing import Any

import pytest
from clipperfs.serverd.adopter import Seen, judge_copy

from clipperfs.adopt import Assessment
from clipperfs.documents import FileEntry, Manifest, Policy

MANIFEST = Manifest(created="now", created_by="me", files=[FileEntry(path="a", size=1, sha256="a" * 64)])


def there(**fields: Any) -> Assessment:
    fields = {"state": "incoming", "missing": ["manifest.json"], "listing": "same", "size_bytes": 9, **fields}
    return Assessment(**fields)


def complete(**fields: Any) -> Assessment:
    return there(**{"state": "complete", "manifest": MANIFEST, "missing": [], **fields})


def judge(copy: Assessment, *, policy: str = "marker", unchanged_s: float | None = 5.0, listing: str = "same") -> str:
    seen = None if unchanged_s is None else Seen(listing, 100.0 - unchanged_s)
    return judge_copy(copy, seen, Policy(adopt=policy, quiet_s=10), 100.0, 2.0)


@pytest.mark.parametrize("policy", ["marker", "quiescent", "manifest"])
def test_complete_manifest_is_adopted_under_every_policy_once_it_has_settled(policy: str) -> None:
    assert judge(complete(), policy=policy) == "adopt"
    assert judge(complete(), policy=policy, unchanged_s=1.0) == "wait"
    assert judge(complete(), policy=policy, unchanged_s=None) == "wait"
    assert judge(complete(), policy=policy, listing="other") == "wait"


def test_manifest_whose_files_are_missing_waits() -> None:
    assert judge(complete(state="incoming", missing=["a"], marker="READY")) == "wait"


def test_marker_needs_an_unchanged_listing() -> None:
    assert judge(there(marker="READY")) == "adopt"
    assert judge(there(marker="READY"), unchanged_s=None) == "wait"
    assert judge(there(marker="READY"), listing="other") == "wait"


def test_marker_that_came_before_the_files_waits() -> None:
    assert judge(there(marker="READY", size_bytes=0)) == "wait"


def test_without_a_marker_only_quiescence_adopts_and_only_after_the_quiet_time() -> None:
    assert judge(there(), unchanged_s=1000.0) == "wait"
    assert judge(there(), policy="quiescent", unchanged_s=9.0) == "wait"
    assert judge(there(), policy="quiescent", unchanged_s=10.0) == "adopt"


def test_policy_manifest_never_writes_one() -> None:
    assert judge(there(marker="READY"), policy="manifest", unchanged_s=1000.0) == "wait"


def test_a_manifest_that_is_cut_short_is_not_replaced() -> None:
    copy = there(marker="READY", missing=["manifest.json (what is there is cut short)"])
    assert judge(copy, unchanged_s=1000.0) == "wait"


@pytest.mark.parametrize("state", ["broken", "purged"])
def test_what_can_never_be_right_is_left_alone(state: str) -> None:
    assert judge(there(state=state, marker="READY"), unchanged_s=1000.0) == "leave"
