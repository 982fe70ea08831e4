"""``rollout``: try a version beside the active one, then promote or abort it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipperfs.cli.activate import expect_seq_option, reason_option, timeout_option, wait_option
from clipperfs.cli.call import Call, plain
from clipperfs.cli.daemon import open_daemon, state_dir_option
from clipperfs.cli.frame import command
from clipperfs.cli.outcome import activation_text, rollout_text, verdict_table
from clipperfs.cli.text import table, visible
from clipperfs.errors import ClipperfsError, NotFound

if TYPE_CHECKING:
    from clipperfs.activate import Outcome
    from clipperfs.registry import Registry

RATE = click.FloatRange(0, 1)


@command(
    "rollout",
    short_help="Try a version on a share of the queries.",
    examples=[
        "clipperfs rollout digits 2 --percent 5 --reason 'retrained'",
        "clipperfs rollout digits 2 --percent 25",
        "clipperfs rollout digits 3 --shadow --max-differ-rate 0.01",
        "clipperfs rollout digits",
        "clipperfs rollout digits --promote --wait 3",
        "clipperfs rollout digits --abort --reason 'wrong on 7s'",
    ],
)
@click.argument("model")
@click.argument("version", required=False)
@click.option("--percent", type=click.FloatRange(0, 100, min_open=True), metavar="P", help="The share of the queries.")
@click.option("--shadow", is_flag=True, help="Send it copies of queries and only compare what it says.")
@click.option("--promote", is_flag=True, help="Run the hooks again and make the candidate the active version.")
@click.option("--abort", is_flag=True, help="End the rollout: the active version answers everything.")
@click.option(
    "--max-error-rate", type=RATE, metavar="R", help="End it when it fails more of its queries.  [policy, or 0.05]"
)
@click.option(
    "--max-default-rate", type=RATE, metavar="R", help="… when it is too late for more of them.  [policy, or 0.05]"
)
@click.option(
    "--max-latency-ratio",
    type=click.FloatRange(0, 1000, min_open=True),
    metavar="X",
    help="… when its mean predict time is X times that of the active version.  [policy, or 2]",
)
@click.option(
    "--max-differ-rate", type=RATE, metavar="R", help="… when more of a shadow's outputs differ.  [policy, or any]"
)
@click.option(
    "--min-queries",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="… but not on fewer queries than N.  [policy, or 100]",
)
@expect_seq_option
@reason_option
@wait_option
@timeout_option
@state_dir_option
def rollout(
    call: Call,
    model: str,
    version: str | None,
    percent: float | None,
    shadow: bool,
    promote: bool,
    abort: bool,
    expect_seq: int | None,
    reason: str | None,
    wait: int | None,
    timeout_s: float,
    state_dir: str | None,
    **limits: Any,
) -> None:
    """Try VERSION of MODEL beside the active version: a canary on --percent P of the queries, or a --shadow.

    The hooks run first, as for an activation (exit 6). Run it again with another share to change it. A query's key, or
    else its input, decides which version it meets, on every host alike. Daemons end a rollout whose candidate crosses a
    limit. With neither a VERSION nor an option: show the rollout, and what the daemon on this host has counted.
    """
    changes = {name: value for name, value in limits.items() if value is not None}
    terms = percent is not None or shadow or bool(changes)
    if promote + abort + terms > 1:
        raise click.UsageError("Give one of --promote, --abort, or how to roll out.")
    registry = call.registry()
    if promote:
        _finish(
            call,
            registry,
            model,
            registry.promote(model, version, expect_seq=expect_seq, reason=reason),
            wait,
            timeout_s,
        )
    elif abort:
        _finish(
            call, registry, model, registry.abort(model, version, expect_seq=expect_seq, reason=reason), wait, timeout_s
        )
    elif version is not None:
        if not shadow and percent is None and not changes:
            raise click.UsageError("Give the share with --percent P, or --shadow.")
        outcome = registry.rollout(
            model, version, percent=percent, shadow=shadow, limits=changes, expect_seq=expect_seq, reason=reason
        )
        _finish(call, registry, model, outcome, wait, timeout_s)
    elif terms:
        raise click.UsageError("Which VERSION is to be rolled out?")
    else:
        _show(call, registry, model, state_dir)


def _finish(call: Call, registry: Registry, model: str, outcome: Outcome, wait: int | None, timeout_s: float) -> None:
    document = plain(outcome)
    record = outcome.record
    if outcome.verdicts:
        call.say(verdict_table(outcome.verdicts))
    if wait and record is not None:
        from clipperfs.cli.wait import wait_for_daemons

        running = record.state.rollout_in_effect
        call.say(f"waiting for {wait} daemon{'s' if wait > 1 else ''} to follow")
        document["serving"] = wait_for_daemons(
            registry.store, record, pointer=running.candidate if running else None, count=wait, timeout_s=timeout_s
        )
    call.emit(document, lambda: _outcome_text(model, outcome))


def _outcome_text(model: str, outcome: Outcome) -> str:
    record = outcome.record
    if record is None or (not outcome.changed and record.state.rollout is None):
        return f"{model}: there is no rollout; nothing was written"
    if outcome.changed and record.op == "promote":
        return activation_text(model, outcome)
    if outcome.changed and record.op == "abort":
        active = record.state.active.version if record.state.active else "nothing"
        ended = f"the rollout of version {record.evidence.version} is aborted"
        return visible(f"{model}: {ended}, {active} is active, record {record.seq}")
    already = "" if outcome.changed else " already; nothing was written"
    return visible(f"{model}: {rollout_text(record.state)}{already}, record {record.seq}")


def _show(call: Call, registry: Registry, model: str, state_dir: str | None) -> None:
    head = registry.head(model)
    if head is None:
        raise NotFound(f"there is no model {model}", hint="'clipperfs list' shows the models", model=model)
    running = head.record.state.rollout_in_effect
    seen: dict[str, Any] | None = None
    if running is not None:
        try:
            seen = open_daemon(call, state_dir=state_dir).status().get("models", {}).get(model, {}).get("rollout")
        except ClipperfsError as error:
            call.say(f"no figures: {visible(error.message)}")
    document = {"model": model, "seq": head.seq, "rollout": running, "daemon": seen}
    call.emit(document, lambda: _show_text(model, document))


def _show_text(model: str, document: dict[str, Any]) -> str:
    running, seen = document["rollout"], document["daemon"]
    if running is None:
        return f"{model}: no rollout"
    limits = ", ".join(f"{name}={value:g}" for name, value in plain(running.limits).items() if value is not None)
    facts = {
        "model": model,
        "candidate": f"{running.candidate.version}, {running.kind} at {running.percent:g} %, since record "
        f"{running.started_seq}",
        "limits": limits,
    }
    if seen:
        facts["here"] = seen["state"] + (f": {seen['reason']}" if seen.get("reason") else "")
        facts["window"] = f"{seen['window_s']:g} s"
    lines = [f"{name:9} {visible(value)}" for name, value in facts.items()]
    if seen and seen.get("figures"):
        sides = [(seen["version"], seen["kind"], seen["figures"]["candidate"])]
        sides.append((seen["active"], "active", seen["figures"]["active"]))
        rows = [
            (name, role, side["queries"], side["errors"], side["defaults"], _ms(side), _compared(side))
            for name, role, side in sides
        ]
        lines += ["", table(("version", "role", "queries", "errors", "late", "mean ms", "agree/differ/dropped"), rows)]
    return "\n".join(lines)


def _ms(side: dict[str, Any]) -> str:
    return f"{side['predict_us'] / side['batches'] / 1000:.3g}" if side.get("batches") else "-"


def _compared(side: dict[str, Any]) -> str:
    counts = [side.get(name, 0) for name in ("agree", "differ", "shadow_dropped")]
    return "/".join(map(str, counts)) if any(counts) else "-"
