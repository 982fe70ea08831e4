"""How records, verdicts and what a verb did look to people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipperfs.cli.call import plain
from clipperfs.cli.text import table, visible

if TYPE_CHECKING:
    from clipperfs.activate import Outcome
    from clipperfs.apps import AppOutcome
    from clipperfs.documents import ModelState


def change_line(done: str, outcome: Outcome | AppOutcome) -> str:
    """Return one line about a change: which record it is, or that everything was so already."""
    seq = outcome.record.seq if outcome.record is not None else 0
    return visible(f"{done}, record {seq}" if outcome.changed else f"{done}; that was so already (record {seq})")


def activation_text(model: str, outcome: Outcome, *, dry_run: bool = False) -> str:
    """Return one line about a pointer move."""
    if dry_run and outcome.verdicts:
        return f"{model}: all hooks passed; nothing was written (--dry-run)"
    assert outcome.record is not None
    state = outcome.record.state
    active = state.active.version if state.active else "nothing"
    previous = state.previous.version if state.previous else "nothing"
    if not outcome.changed:
        return f"{model}: {active} is active already (record {outcome.record.seq}); nothing was written"
    return f"{model}: {active} is active (was {previous}), record {outcome.record.seq}"


def rollout_text(state: ModelState) -> str:
    """Return a few words about a model's rollout, or ``-``."""
    rollout = state.rollout_in_effect
    if rollout is None:
        return "-"
    return f"version {rollout.candidate.version}, {rollout.kind} at {rollout.percent:g} %"


def record_line(record: Any) -> str:
    """Return one line about a record (a document, or its plain data), or whatever else stands for it."""
    tree = plain(record)
    if tree is None:
        return "no record"
    if not isinstance(tree, dict):
        return visible(tree)
    version = tree.get("version") or (tree.get("evidence") or {}).get("version")
    seq = f"record {tree['seq']}:" if "seq" in tree else f"on record {tree.get('base_seq')}:"
    words = [seq, str(tree.get("op")), version, f"by {tree.get('actor')}"]
    words += [f"at {tree['time']}" if tree.get("time") else None, f"({tree['reason']})" if tree.get("reason") else None]
    return visible(" ".join(word for word in words if word))


def verdict_table(verdicts: Any) -> str:
    """Return every verdict as a table: which hook, what it said, why, and what to do next."""
    rows = []
    for verdict in map(plain, verdicts):
        reason = verdict.get("reason") or ""
        if verdict.get("next_step"):
            reason = f"{reason} → {verdict['next_step']}" if reason else f"→ {verdict['next_step']}"
        rows.append((verdict.get("hook"), verdict.get("outcome"), reason))
    return table(("hook", "verdict", "why → what next"), rows)
