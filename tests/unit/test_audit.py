"""Questions to the history: filters, moments, the state at a moment, and the export of everything."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clipperfs import Registry
from clipperfs.audit import Filter, parse_moment
from clipperfs.cli.root import clipperfs
from clipperfs.digest import NO_DIGEST, digest_bytes
from clipperfs.errors import InvalidSetting, NotFound

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20", NOON.replace(hour=0)),
        ("2026-11-20T12:00:00Z", NOON),
        ("2026-11-20T13:00:00+01:00", NOON),
        ("2026-11-20 12:00", NOON),
        ("90m", NOON - timedelta(minutes=90)),
        ("7d", NOON - timedelta(days=7)),
    ],
)
def test_moment_is_a_date_a_time_or_an_age(text: str, moment: datetime) -> None:
    assert parse_moment(text, now=NOON) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "12", "-1d", "2026-13-01", "5 parsecs"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_moment(text, now=NOON)
    assert "7d" in (caught.value.hint or "")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A model whose log has six records of two actors, an hour apart by their writers' clocks."""
    source = tmp_path / "s"
    source.mkdir()
    (source / "model.yaml").write_text("wrapper: noop\n")
    ana = Registry.init(tmp_path / "r", cache_dir=tmp_path / "c", actor="ana@host")
    bot = Registry(tmp_path / "r", cache_dir=tmp_path / "c", actor="CI@build-7")
    hours = iter(range(24))
    monkeypatch.setattr("clipperfs.ledger.utc_now", lambda: f"2026-11-20T{next(hours):02d}:00:00.000Z")
    ana.publish("digits", "1", source)
    bot.publish("digits", "2", source)
    bot.policy("digits", {"replicas": 2})
    ana.retire("digits", "1")
    ana.retire("digits", "2")
    bot.retire("digits", "2", undo=True)
    ana.app_register("reader", input_type="doubles", default_output="0", slo_us=1000)
    return ana


@pytest.mark.parametrize(
    ("where", "seqs"),
    [
        (Filter(), [6, 5, 4, 3, 2, 1]),
        (Filter(ops=frozenset(["publish", "policy"])), [3, 2, 1]),
        (Filter(actor="ci@"), [6, 3, 2]),
        (Filter(version="1"), [4, 1]),
        (Filter(since=NOON.replace(hour=3)), [6, 5, 4]),
        (Filter(until=NOON.replace(hour=1)), [2, 1]),
        (Filter(since=NOON.replace(hour=1), until=NOON.replace(hour=3), actor="ana"), [4]),
        (Filter(ops=frozenset(["none"])), []),
    ],
)
def test_filter_passes_what_is_wanted(registry: Registry, where: Filter, seqs: list[int]) -> None:
    assert [record.seq for record in registry.history("digits", where=where)] == seqs


def test_limit_counts_what_passes(registry: Registry) -> None:
    where = Filter(ops=frozenset(["publish"]))
    assert [record.seq for record in registry.history("digits", limit=1, where=where)] == [2]


def test_record_without_a_readable_time_passes_no_limit_of_time(registry: Registry) -> None:
    odd = registry.history("digits")[0].model_copy(update={"time": "soon"})
    assert Filter().wants(odd)
    assert not Filter(since=NOON).wants(odd) and not Filter(until=NOON).wants(odd)


def test_state_at_a_moment_is_that_of_the_newest_record_by_then(registry: Registry) -> None:
    found = registry.record_at("digits", NOON.replace(hour=4, minute=30))
    assert found is not None and found.seq == 5
    assert sorted(found.state.retired) == ["1", "2"]
    assert registry.record_at("digits", NOON - timedelta(days=1)) is None
    with pytest.raises(NotFound):
        registry.record_at("none", NOON)


def test_export_has_every_record_in_order_and_its_chain_can_be_followed(registry: Registry) -> None:
    found = list(registry.export())
    names = [(subject.kind, subject.name, head.seq) for subject, head in found]
    assert names == [*(("model", "digits", seq) for seq in range(1, 7)), ("app", "reader", 1)]
    before: str = NO_DIGEST
    for _, head in found[:-1]:
        assert head.record.prev == before
        before = digest_bytes(head.data)


def run(registry: Registry, *arguments: str, exits: int = 0) -> Result:
    result = CliRunner().invoke(clipperfs, [*arguments, "--registry", registry.url])
    assert result.exit_code == exits, result.output
    return result


def test_commands_print_what_they_are_asked_for(registry: Registry) -> None:
    filters = ("--op", "retire", "--actor", "ana", "--since", "2026-11-20", "--until", "2026-11-20T03:30")
    document = json.loads(run(registry, "history", "digits", *filters, "--json").stdout)
    assert [record["seq"] for record in document] == [4]
    text = run(registry, "history", "digits", "--at", "2026-11-20T03:30").stdout
    assert "4, retire by ana@host" in text and "1 (retired)" in text
    at: Any = json.loads(run(registry, "history", "digits", "--at", "2026-11-20T03:30", "--json").stdout)
    assert at["seq"] == 4
    assert "had no record yet" in run(registry, "history", "digits", "--at", "1999-01-01").stdout
    lines = [json.loads(line) for line in run(registry, "export").stdout.splitlines()]
    assert len(lines) == 7
    assert lines[0]["sha256"] == lines[1]["record"]["prev"]


@pytest.mark.parametrize(
    ("arguments", "exits"),
    [(("--at", "7d", "--limit", "3"), 2), (("--since", "then"), 2), (("--at", "then"), 2)],
)
def test_questions_that_cannot_be_answered_are_refused(
    registry: Registry, arguments: tuple[str, ...], exits: int
) -> None:
    run(registry, "history", "digits", *arguments, exits=exits)


def test_export_of_a_broken_chain_ends_with_its_error(registry: Registry, tmp_path: Path) -> None:
    place = tmp_path / "r/models/digits/log/00000000000000000003.json"
    place.write_bytes(place.read_bytes().replace(b"CI@build-7", b"CI@build-8"))
    result = run(registry, "export", exits=5)
    assert len(result.stdout.splitlines()) == 3  # record 3 itself is what 4 does not follow
