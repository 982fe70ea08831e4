"""What the frontends are told: which version answers under which name, and why none does."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from clipperfs.serverd.desired import ACTIVE, Desired, WantedApp, WantedModel, WantedVersion
from clipperfs.serverd.holding import Holding
from clipperfs.serverd.reconciler import Phase
from clipperfs.serverd.routing import NO_MODEL, ModelRoute
from clipperfs.serverd.table import HeldView, build_table

from clipperfs.documents import Policy

V1 = WantedVersion("1", "1" * 64, {}, 1, "f")
V2 = WantedVersion("2", "2" * 64, {}, 1, "f")
APP = WantedApp("a", 1, "doubles", 100_000, "none", "m")


def wanted(active: WantedVersion | None, **more: Any) -> WantedModel:
    loads = {active.load: active} if active else {}
    names = {ACTIVE: active.load} if active else {}
    return WantedModel("m", 3, more.pop("policy", Policy()), loads | more.pop("loads", {}), names | more, None)


def view(of: WantedVersion, phase: Phase = "ready", replicas: tuple[str, ...] = ("aa",), **more: Any) -> HeldView:
    more.setdefault("was_ready", phase == "ready")
    fields: dict[str, Any] = {"key": f"k{of.version}", "input_type": "doubles", **more}
    return HeldView(
        model="m",
        version=of.version,
        manifest=of.manifest,
        load=of.load,
        phase=phase,
        replicas=replicas,
        **fields,
    )


def route(model: WantedModel, held: list[HeldView], serving: dict[str, str], **refused: str) -> ModelRoute:
    keys = {("m", name): key for name, key in serving.items()}
    refusals = {("m", version.removeprefix("v")): hook for version, hook in refused.items()}
    table = build_table(Desired({"m": model}, {"a": APP}), held, keys, refusals, epoch=7, accepting=True)
    assert table.epoch == 7
    assert table.apps["a"].model == "m"
    return table.models["m"]


def test_serving_version_is_active_with_its_replicas() -> None:
    found = route(wanted(V1), [view(V1, replicas=("bb", "aa"))], {ACTIVE: "k1"})
    assert found.active == "1"
    assert found.unavailable is None
    assert found.versions["1"].replicas == ("aa", "bb")


def test_settings_that_a_manifest_leaves_out_go_to_the_frontends() -> None:
    """What a model answers depends on them, so outputs must not be shared in the cache."""
    inherits = WantedVersion("1", "1" * 64, {"wrapper": {"kind": "noop"}}, 1, "f")
    copy: Any = SimpleNamespace(
        input_type="doubles",
        max_batch=1,
        settings=SimpleNamespace(fixed_batch=None, batch_delay_ms=None, idempotent=True),
    )
    holding = Holding("k1", "m", inherits, Policy(), "ready", prepared=copy)
    found = route(wanted(inherits), [holding.view()], {ACTIVE: "k1"}).versions["1"]
    assert found.settings == inherits.settings != ""


def test_sizes_and_the_warm_up_of_a_version_go_to_the_frontends() -> None:
    held = view(V1, max_batch=9, fixed_batch=4, batch_delay_ms=2.5, warm_up=((1, 0.01), (9, 0.02)))
    found = route(wanted(V1), [held], {ACTIVE: "k1"}).versions["1"]
    assert (found.max_batch, found.fixed_batch, found.batch_delay_ms) == (9, 4, 2.5)
    assert found.warm_up == ((1, 0.01), (9, 0.02))


def test_old_version_stays_active_while_the_new_one_loads() -> None:
    found = route(wanted(V2), [view(V1), view(V2, "loading", ())], {ACTIVE: "k1"})
    assert found.active == "1"
    assert found.versions["2"].unavailable == "Model m is loading version 2"


def test_first_version_that_is_loading_is_explained() -> None:
    found = route(wanted(V1), [view(V1, "fetching", ())], {})
    assert found.unavailable == "Model m is loading version 1"


def test_crashed_version_is_explained() -> None:
    found = route(wanted(V1), [view(V1, replicas=())], {ACTIVE: "k1"})
    assert found.unavailable == "Model m has no live replica: version 1 crashed and is being restarted"
    assert found.versions["1"].unavailable == found.unavailable


def test_version_that_cannot_be_loaded_is_explained() -> None:
    found = route(wanted(V1), [view(V1, "failed", ())], {})
    assert found.unavailable == "Version 1 of model m could not be loaded"


def test_version_that_kept_crashing_is_explained() -> None:
    found = route(wanted(V1), [view(V1, "failed", (), was_ready=True)], {})
    assert found.unavailable is not None and "kept crashing" in found.unavailable


def test_refused_first_copy_is_explained() -> None:
    assert route(wanted(None), [], {}, v1="quality").unavailable == "Version 1 of model m was refused by hook quality"


def test_model_without_an_active_version_has_nothing_to_say() -> None:
    found = route(wanted(None), [], {})
    table = build_table(Desired({"m": wanted(None)}, {"a": APP}), [], {}, {}, epoch=1, accepting=False)
    assert (found.active, found.unavailable) == (None, None)
    assert table.choose(table.apps["a"]).explanation == NO_MODEL
    assert not table.accepting


def test_model_that_is_off_is_explained() -> None:
    found = route(wanted(None, policy=Policy(replicas=0)), [], {})
    assert found.unavailable == "Model m is switched off: its policy asks for 0 replicas"


def test_version_that_leaves_is_not_in_the_table() -> None:
    assert set(route(wanted(V2), [view(V1, "leaving"), view(V2)], {ACTIVE: "k2"}).versions) == {"2"}


def test_of_two_loads_of_one_version_the_answering_one_is_in_the_table() -> None:
    again = replace(V1, inherited={"input_type": "doubles"})
    held = [view(V1), view(again, key="again", replicas=("cc",))]
    assert route(wanted(again), held, {ACTIVE: "k1"}).versions["1"].key == "k1"
    assert route(wanted(again), held, {ACTIVE: "again"}).versions["1"].key == "again"


def test_alias_points_at_what_answers_then_at_what_is_wanted() -> None:
    model = wanted(V1, loads={V2.load: V2}, next=V2.load)
    assert route(model, [view(V1)], {ACTIVE: "k1"}).aliases == {"next": "2"}
    assert route(model, [view(V1), view(V2, "loading", ())], {ACTIVE: "k1", "next": "k1"}).aliases == {"next": "1"}


def test_cache_follows_the_policy() -> None:
    assert route(wanted(V1, policy=Policy(cache="off")), [], {}).cache is False
    assert route(wanted(V1), [], {}).cache is True


def test_limits_of_an_application_are_divided_by_the_frontends_as_the_docs_say() -> None:
    limited = replace(APP, max_concurrent=2, max_rate=800)
    table = build_table(Desired({}, {"a": limited}), [], {}, {}, epoch=1, accepting=True, frontends=8)
    assert (table.apps["a"].max_concurrent, table.apps["a"].max_rate) == (1, 100)
