"""The routing table: which version answers, with which explanation none does, and its plain form."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from clipperfs.serverd import routing
from clipperfs.serverd.counters import REASONS
from clipperfs.serverd.routing import AppRoute, ModelRoute, RoutingTable, VersionRoute

APP = AppRoute("doubles", 100_000, "-1", "m")
LIVE = VersionRoute("k1", "d1", "doubles", ("aa",))
OTHER = VersionRoute(
    "k2",
    "d2",
    "doubles",
    ("bb",),
    input_size=3,
    settings="0f",
    max_batch=7,
    fixed_batch=5,
    idempotent=False,
    warm_up=((1, 0.25), (32, 0.5)),
)


def table(app: AppRoute = APP, **model: object) -> RoutingTable:
    return RoutingTable(3, True, {"app": app}, {"m": ModelRoute(**model)})  # type: ignore[arg-type]


def test_active_version_answers_unless_another_is_asked_for() -> None:
    both = table(active="1", aliases={"next": "2"}, versions={"1": LIVE, "2": OTHER})
    assert both.choose(APP).version is LIVE
    assert both.choose(APP, "2").version is OTHER
    assert both.choose(APP, "next").version is OTHER
    assert (both.choose(APP, "2").model, both.choose(APP, "2").name) == ("m", "2")


@pytest.mark.parametrize(
    ("given", "pin", "reason", "explanation"),
    [
        (table(app=AppRoute("doubles", 1, "")), None, "no_model", routing.NO_MODEL),
        (RoutingTable(apps={"app": APP}), None, "no_model", routing.NO_MODEL),
        (table(), None, "no_model", routing.NO_MODEL),
        (table(unavailable="refused"), None, "unavailable", "refused"),
        (table(active="1"), None, "unavailable", "Model m is loading version 1"),
        (table(active="1", unavailable="why"), None, "unavailable", "why"),
        (
            table(active="1", versions={"1": VersionRoute("k", "d", "doubles")}),
            None,
            "unavailable",
            "Model m has no live replica: version 1 crashed and is being restarted",
        ),
        (
            table(active="1", versions={"1": VersionRoute("k", "d", "", unavailable="loads")}),
            None,
            "unavailable",
            "loads",
        ),
        (table(active="1", versions={"1": LIVE}), "9", "not_loaded", "Version 9 of model m is not loaded"),
        (table(aliases={"x": "9"}), "x", "not_loaded", "Version x of model m is not loaded"),
        (
            table(active="1", versions={"1": VersionRoute("k", "d", "ints", ("aa",))}),
            None,
            "input_type",
            "Model m expects inputs of type ints",
        ),
    ],
)
def test_query_that_no_version_answers_has_a_precise_explanation(
    given: RoutingTable, pin: str | None, reason: str, explanation: str
) -> None:
    choice = given.choose(given.apps["app"], pin)
    assert choice.version is None
    assert (choice.reason, choice.explanation) == (reason, explanation)
    assert reason in REASONS


def test_table_survives_the_channel() -> None:
    full = table(active="1", aliases={"a": "1"}, unavailable="x", cache=False, versions={"1": LIVE, "2": OTHER})
    full = replace(full, frontends=3)
    packed = msgpack.packb({"t": "table", **full.to_plain()})
    assert RoutingTable.from_plain(msgpack.unpackb(packed)) == full
