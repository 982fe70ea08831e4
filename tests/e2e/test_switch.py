"""A version changes under load: no query fails, no batch mixes versions, and a bad version hurts nobody."""

from __future__ import annotations

import shutil
import time

import pytest

from clipperfs.errors import ActivationRefused
from tests.e2e.daemon_rig import Load, Rig, is_alive, wait_for


@pytest.mark.parametrize("batch", [1, 16])
def test_activation_under_load_fails_no_query_and_mixes_nothing(rig: Rig, batch: int) -> None:
    rig.publish("1")
    with rig.running(), Load(rig, batch=batch) as load:
        rig.publish("2")
        wait_for(rig.serves("2"))
    assert load.failures == []
    assert load.turns == 0
    assert set(load.answers) == {"1", "2"}


def test_activation_with_several_frontends_and_replicas_fails_no_query(rig: Rig) -> None:
    rig.publish("1", replicas=2)
    with rig.running(frontends=2), Load(rig) as load:
        rig.publish("2")
        wait_for(rig.serves("2"))
        assert rig.versions()["2"]["replicas_ready"] == 2
    assert load.failures == []
    assert set(load.answers) == {"1", "2"}


def test_rollback_to_the_warm_previous_version_takes_effect_without_a_load(rig: Rig) -> None:
    rig.publish("1")
    with rig.running(), Load(rig) as load:
        rig.publish("2")
        wait_for(rig.serves("2"))
        before = rig.replica_pids("1")
        rig.registry.rollback("m")
        wait_for(rig.serves("1"))
        assert rig.replica_pids("1") == before
    assert load.failures == []


def test_version_that_cannot_be_loaded_leaves_the_old_one_answering_and_says_why(rig: Rig) -> None:
    rig.publish("1", code=True)
    with rig.running(watch=False) as daemon, Load(rig) as load:
        rig.publish("2", code=True)
        rig.flag("cannot-load")
        report = daemon.reload()
        assert [(one["model"], one["version"]) for one in report["failed"]] == [("m", "2")]
        assert "the drill says" in report["failed"][0]["reason"]
        status = daemon.status()
        assert status["models"]["m"]["serving"] == "1"
        assert status["degraded"]
        assert any("version 2 of model m" in reason for reason in status["reasons"])
        assert 'clipperfs_version_state{model="m",state="quarantined",version="2"} 1.0' in daemon.metrics()
        rig.flag("cannot-load", on=False)
        assert daemon.reload()["changes"] == [{"model": "m", "alias": None, "from": "1", "to": "2"}]
    assert load.failures == []
    assert set(load.answers) == {"1", "2"}


def test_failed_version_stays_quarantined_until_the_pointer_moves(rig: Rig) -> None:
    rig.publish("1", code=True)
    with rig.running(watch=False) as daemon:
        rig.publish("2", code=True)
        rig.flag("cannot-load")
        daemon.reload()
        rig.flag("cannot-load", on=False)
        daemon.follow()
        rig.registry.alias("m", "other", "1")
        wait_for(lambda: daemon.status()["models"]["m"]["seq"] > 4)
        assert rig.versions()["2"]["state"] == "quarantined"
        rig.registry.rollback("m")
        rig.registry.rollback("m", to="2")
        wait_for(rig.serves("2"))


def test_first_version_that_cannot_be_loaded_is_explained(rig: Rig) -> None:
    rig.publish("1", code=True)
    rig.flag("cannot-load")
    with rig.running():
        reply = rig.ask()
    assert reply["default"] is True
    assert reply["output"] == "none"
    assert reply["default_explanation"] == "Version 1 of model m could not be loaded"


def test_daemon_started_on_a_broken_active_version_answers_with_the_previous_one(rig: Rig) -> None:
    rig.publish("1")
    rig.publish("2", code=True)
    rig.flag("cannot-load")
    with rig.running() as daemon:
        wait_for(rig.serves("1"))
        assert rig.ask()["version"] == "1"
        assert daemon.status()["quarantined"][0]["version"] == "2"


def test_replicas_follow_the_policy_without_losing_a_query(rig: Rig) -> None:
    rig.publish("1")
    with rig.running(), Load(rig) as load:
        rig.registry.policy("m", {"replicas": 3})
        wait_for(lambda: rig.versions()["1"]["replicas_ready"] == 3)
        rig.registry.policy("m", {"replicas": 1})
        wait_for(lambda: len(rig.replica_pids("1")) == 1)
    assert load.failures == []


def test_zero_replicas_switch_a_model_off_and_one_switches_it_on_again(rig: Rig) -> None:
    rig.publish("1")
    with rig.running():
        rig.registry.policy("m", {"replicas": 0})
        wait_for(lambda: not rig.versions())
        assert rig.ask()["default_explanation"] == "Model m is switched off: its policy asks for 0 replicas"
        rig.registry.policy("m", {"replicas": 1})
        wait_for(rig.serves("1"))
        assert rig.ask()["version"] == "1"


def test_previous_version_stays_warm_then_its_process_ends(rig: Rig) -> None:
    rig.publish("1", keep_previous_s=0.5)
    with rig.running(), Load(rig) as load:
        [pid] = rig.replica_pids("1")
        rig.publish("2")
        wait_for(rig.serves("2"))
        assert is_alive(pid)
        assert rig.ask(version="1")["version"] == "1"
        wait_for(lambda: not is_alive(pid))
        assert "1" not in rig.versions()
        assert rig.ask(version="1")["default_explanation"] == "Version 1 of model m is not loaded"
    assert load.failures == []


def test_aliases_and_pins_are_loaded_and_answer(rig: Rig) -> None:
    rig.publish("1", keep_previous_s=0)
    rig.publish("2", activate=False)
    rig.publish("3", activate=False)
    with rig.running():
        rig.registry.alias("m", "next", "2")
        rig.registry.pin("m", "3")
        wait_for(lambda: {"1", "2", "3"} == {name for name, one in rig.versions().items() if one["replicas_ready"]})
        wait_for(lambda: rig.ask(version="next")["version"] == "2")
        assert rig.ask(version="3")["version"] == "3"
        assert rig.ask()["version"] == "1"
        rig.registry.alias("m", "next", None)
        rig.registry.pin("m", "3", remove=True)
        wait_for(lambda: set(rig.versions()) == {"1"})


def test_complete_copy_is_adopted_and_activated_and_half_a_copy_is_not(rig: Rig) -> None:
    rig.publish("1", activation="on-publish")
    source = rig.folder("2")
    target = rig.place / "registry" / "models" / "m" / "versions" / "2"
    with rig.running(), Load(rig) as load:
        target.mkdir(parents=True)
        shutil.copy(source / "model.yaml", target)
        time.sleep(0.5)
        assert rig.registry.show_version("m", "2").state == "incoming"
        shutil.copy(source / "weights.bin", target)
        (target / "READY").touch()
        wait_for(rig.serves("2"))
    assert load.failures == []
    newest = rig.registry.history("m")
    assert [record.op for record in newest[:2]] == ["activate", "adopt"]
    assert all(record.actor.startswith("serverd@") for record in newest[:2])


def test_copy_that_its_hook_refuses_is_adopted_but_not_served(rig: Rig) -> None:
    rig.publish("1", activation="on-publish", hooks=["smoke"])
    source = rig.folder("2", "wrapper: {kind: noop, no_such_option: 1}\ninput_type: doubles\nsample: [[1.0, 2.0]]\n")
    with rig.running() as daemon:
        shutil.copytree(source, rig.place / "registry" / "models" / "m" / "versions" / "2")
        (rig.place / "registry" / "models" / "m" / "versions" / "2" / "READY").touch()
        wait_for(lambda: daemon.status()["refused"])
        [refused] = daemon.status()["refused"]
        assert (refused["model"], refused["version"], refused["hook"]) == ("m", "2", "loadable")
        assert rig.ask()["version"] == "1"
        count = len(rig.registry.history("m"))
        time.sleep(0.4)
        assert len(rig.registry.history("m")) == count
    with pytest.raises(ActivationRefused):
        rig.registry.activate("m", "2")
