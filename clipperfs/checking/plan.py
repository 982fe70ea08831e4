"""Which hooks run on a candidate, in which order and for how long. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from clipperfs.checking.request import PlannedHook
from clipperfs.documents import HookSettings, Policy, VersionSettings
from clipperfs.hook import ALWAYS

TIMEOUT_OPTION = "timeout_s"
"""The option that every hook has: its own time limit, in seconds. The hook itself does not see it."""

MAX_TIMEOUT_S = 86_400.0


def plan_hooks(policy: Policy, settings: VersionSettings, *, emergency: bool) -> list[PlannedHook]:
    """Return the hooks to run: the cheap checks that always run, then the policy's, then the version's own.

    A hook that is named twice with the same options runs once, at its first place. A ``timeout_s`` that cannot be
    used stays among the options, where the run reports it as that hook's error.

    Args:
        policy: The model's policy.
        settings: The candidate's effective settings.
        emergency: Whether this is a rollback, the emergency brake: then only the cheap checks run.
    """
    asked: list[tuple[HookSettings, bool]] = [(HookSettings(name=name), True) for name in ALWAYS]
    if not emergency:
        asked += [(hook, True) for hook in policy.hooks]
        asked += [(hook, False) for hook in settings.hooks or []]
    planned: dict[str, PlannedHook] = {}
    for hook, from_policy in asked:
        identity = json.dumps([hook.name, hook.options], sort_keys=True, default=str)
        if identity not in planned:
            planned[identity] = _planned(hook, from_policy, policy)
    return list(planned.values())


def is_time_limit(value: object) -> bool:
    """Say whether ``value`` can be a time limit in seconds."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and 0 < value <= MAX_TIMEOUT_S
    )


def _planned(hook: HookSettings, from_policy: bool, policy: Policy) -> PlannedHook:
    options: Mapping[str, Any] = hook.options
    time_limit_s = policy.hook_timeout_s
    if is_time_limit(options.get(TIMEOUT_OPTION)):
        time_limit_s = float(options[TIMEOUT_OPTION])
        options = {name: value for name, value in options.items() if name != TIMEOUT_OPTION}
    return PlannedHook(hook.name, dict(options), from_policy, time_limit_s)
