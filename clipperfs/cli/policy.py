"""``policy``: what a model's owners decided about it."""

from __future__ import annotations

import difflib
import json
from typing import Any

import click

from clipperfs.cli.activate import expect_seq_option, reason_option
from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.text import table

KEYS = """\b
activation         manual | on-publish
adopt              marker | quiescent | manifest: when a plain copy counts as complete
replicas           replica processes on each host; 0 keeps the model off
cache              on | off: remember predictions
require_signature  true | false: serve only versions that one of the publishers has signed
publishers         whose signatures count: see 'clipperfs key trust'
allow_code         true | false: load formats that execute code (pickle, wrapper.py)
keep_previous_s    how long the previous version stays warm after a switch
hooks              what every candidate must pass, such as '[smoke, {latency: {p99_ms: 20}}]'
rollout_limits     what a rollout's candidate may not exceed, such as '{max_error_rate: 0.01}'
hook_timeout_s, load_timeout_s, predict_timeout_s, quiet_s, grace_s"""


@command(
    "policy",
    short_help="Show or change a model's policy.",
    examples=[
        "clipperfs policy digits",
        "clipperfs policy digits replicas=2 activation=on-publish",
        "clipperfs policy digits 'hooks=[{quality: {floor: 0.9}}]'",
    ],
    help=f"""Show the policy of MODEL, or change it by KEY=VALUE. An empty value brings the default back.

{KEYS}
""",
)
@click.argument("model")
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@expect_seq_option
@reason_option
def policy(call: Call, model: str, changes: tuple[str, ...], expect_seq: int | None, reason: str | None) -> None:
    """Show or change a policy (the text above is the help)."""
    outcome = call.registry().policy(model, parse_changes(changes) or None, expect_seq=expect_seq, reason=reason)
    if outcome.changed and outcome.record is not None:
        call.say(f"{model}: policy changed, record {outcome.record.seq}")
    elif outcome.record is None:
        call.say(f"nothing is recorded of model {model} yet; these are the defaults")
    elif changes:
        call.say(f"{model}: the policy says so already; nothing was written")
    from clipperfs.documents import Policy

    current = outcome.record.state.policy if outcome.record is not None else Policy()
    values = current.model_dump(mode="json")
    rows = [(key, _shown(value)) for key, value in values.items()]
    call.emit({"model": model, "policy": values}, lambda: table(("key", "value"), rows))


def parse_changes(changes: tuple[str, ...]) -> dict[str, Any]:
    """Return the changes by key. Words and numbers stay text, which the policy's own types read.

    YAML would turn ``cache=on`` into true; so only ``hooks``, and values in brackets or braces, are read as YAML
    (JSON is YAML too).

    Raises:
        click.UsageError: no '=', a key that is not known (the nearest one is named), a key twice, or not YAML.
    """
    from clipperfs.documents import Policy

    parsed: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        key = key.strip()
        if not equals:
            raise click.UsageError(f"{change!r} is not KEY=VALUE.")
        if key not in Policy.model_fields:
            near = difflib.get_close_matches(key, list(Policy.model_fields), n=1)
            guess = f"Did you mean {near[0]}?" if near else f"Keys: {', '.join(Policy.model_fields)}."
            raise click.UsageError(f"No policy is called {key!r}. {guess}")
        if key in parsed:
            raise click.UsageError(f"{key} is given twice.")
        parsed[key] = _value(key, text.strip())
    return parsed


def _value(key: str, text: str) -> Any:
    if not text:
        return None  # back to the default
    if key != "hooks" and text[0] not in "[{":
        return text
    import yaml

    try:
        value = yaml.safe_load(text)
        json.dumps(value, allow_nan=False)  # YAML knows dates and NaN, a record does not
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise click.UsageError(f"{key}: not valid YAML or JSON: {' '.join(str(error).split())}") from error
    return [value] if key == "hooks" and not isinstance(value, list) else value


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)
