"""A version on trial, with real processes: shares, shadows, promotion, and what happens to a bad candidate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipperfs.cohort import Cohort
from clipperfs.daemon import Daemon
from tests.e2e.daemon_rig import Client, Load, Rig, wait_for


def trial(daemon: Daemon) -> dict[str, object]:
    """Return what the daemon says of the rollout of model ``m``; empty when there is none."""
    found: dict[str, object] = daemon.status()["models"]["m"]["rollout"] or {}
    return found


def runs(daemon: Daemon) -> bool:
    return trial(daemon).get("state") == "running"


def versions_by_key(port: int, count: int) -> dict[str, str]:
    """Ask once for each of so many keys; return which version answered whom."""
    with Client(port) as client:
        replies = {
            f"user-{number}": client.ask({"input": [1.0, 2.0], "key": f"user-{number}"}) for number in range(count)
        }
    assert not any(reply["default"] for reply in replies.values())
    assert all(reply["output"] == f"v{reply['version']}" for reply in replies.values())
    return {key: reply["version"] for key, reply in replies.items()}


def test_two_daemons_agree_on_who_meets_the_canary_and_on_its_end(rig: Rig, tmp_path: Path) -> None:
    rig.publish("1")
    rig.publish("2", code=True, activate=False)
    other = Daemon(rig.registry, state_dir=tmp_path / "other", port=0, admin_port=None, poll_s=0.1, status_s=0.5)
    with rig.running() as daemon:
        other.start(30, detached=False)
        try:
            rig.registry.rollout("m", "2", percent=30, limits={"min_queries": 250})
            wait_for(lambda: runs(daemon) and runs(other))
            head = rig.registry.head("m")
            assert head is not None and head.record.state.rollout is not None
            cohort = Cohort(head.record.state.rollout.salt, 30)
            met = versions_by_key(daemon.port, 400)
            assert met == {key: "2" if key.encode() in cohort else "1" for key in met}
            assert 80 < sum(version == "2" for version in met.values()) < 160
            assert versions_by_key(other.port, 400) == met
            assert rig.versions()["2"]["role"] == "canary"
            assert 'clipperfs_version_role{model="m",role="canary",version="2"} 1.0' in daemon.metrics()
            assert 'clipperfs_rollout_percent{kind="canary",model="m",version="2"} 30.0' in daemon.metrics()
            check_batch(daemon.port)
            rig.registry.rollout("m", "2", percent=100, limits={"min_queries": 10})
            wait_for(lambda: trial(daemon)["percent"] == trial(other)["percent"] == 100)
            with Client(daemon.port) as one, Client(other.port) as two:
                for number in range(200):
                    assert one.ask({"input": [999.0, float(number)]})["output"] == "v1"
                    assert two.ask({"input": [999.0, float(number)]})["output"] == "v1"
            wait_for(lambda: trial(daemon) == {} == trial(other))
        finally:
            other.stop(0)
    assert [record.op for record in rig.registry.history("m", limit=3)] == ["abort", "rollout", "rollout"]


def check_batch(port: int) -> None:
    """See that each element of a batch meets the version that it would meet alone, and is told which."""
    rows = [[float(number), 2.0] for number in range(40)]
    with Client(port) as client:
        batch = client.ask({"input_batch": rows})
        alone = [client.ask({"input": row})["version"] for row in rows]
        pinned = client.ask({"input_batch": rows, "version": "1"})
        keyed = client.ask({"input_batch": rows, "key": "user-1"})
    assert [one["version"] for one in batch["batch_predictions"]] == alone and set(alone) == {"1", "2"}
    assert batch["version"] == "1, 2" and pinned["version"] == "1"
    assert len({one["version"] for one in keyed["batch_predictions"]}) == 1


def test_life_of_rollouts_under_load_fails_no_query(rig: Rig) -> None:
    rig.publish("1")
    rig.publish("2", activate=False)
    rig.publish("3", activate=False)
    with rig.running() as daemon:
        with Load(rig) as load:
            rig.registry.rollout("m", "2", shadow=True, limits={"max_differ_rate": 0.5, "min_queries": 50})
            wait_for(lambda: rig.registry.history("m", limit=1)[0].op == "abort", 20)
            wait_for(lambda: trial(daemon) == {})
        assert load.failures == [] and set(load.answers) == {"1"}, "a shadow answers nobody"
        reason = rig.registry.history("m", limit=1)[0].reason
        assert reason is not None and "shadow: it differs in" in reason
        with Load(rig) as load:
            rig.registry.rollout("m", "2", percent=50)
            wait_for(lambda: runs(daemon))
            pids = rig.replica_pids("2")
            rig.registry.promote("m")
            wait_for(rig.serves("2"))
            assert rig.replica_pids("2") == pids, "nothing is loaded again"
            rig.registry.rollout("m", "3", percent=50)
            wait_for(lambda: runs(daemon))
            rig.registry.rollback("m")
            wait_for(rig.serves("1"))
            wait_for(lambda: "3" not in rig.versions() and trial(daemon) == {})
        assert load.failures == [] and {"1", "2"} <= set(load.answers)


@pytest.mark.parametrize("first", [999.0, 666.0], ids=["raises", "dies"])
def test_bad_candidate_is_aborted_and_costs_no_query(rig: Rig, first: float) -> None:
    rig.publish("1")
    rig.publish("2", code=True, activate=False)
    with rig.running() as daemon:
        rig.registry.rollout("m", "2", percent=50, limits={"min_queries": 2})
        wait_for(lambda: runs(daemon))
        with Client(daemon.port) as client:
            for number in range(2000):
                reply = client.ask({"input": [first, float(number)]})
                assert (reply["default"], reply["output"]) == (False, "v1"), reply
                if number % 20 == 0 and trial(daemon) == {}:
                    break
        wait_for(lambda: trial(daemon) == {})
        record = rig.registry.history("m", limit=1)[0]
        assert (record.op, record.evidence.version) == ("abort", "2") and record.actor.startswith("serverd@")
        assert record.reason is not None and "it failed" in record.reason and "limit 5 %" in record.reason
        wait_for(lambda: "2" not in rig.versions())
        assert not daemon.status()["degraded"]
        assert 'clipperfs_moved_queries_total{model="m",version="2"}' in daemon.metrics()


def test_brake_holds_without_the_right_to_write_and_over_a_restart(rig: Rig) -> None:
    rig.publish("1")
    rig.publish("2", code=True, activate=False)
    rig.registry.rollout("m", "2", percent=100, limits={"min_queries": 5})
    head = rig.registry.head("m")
    assert head is not None
    log = rig.place / "registry" / "models" / "m" / "log"
    slot = log / f"{head.seq + 1:020d}.json"
    with rig.running() as daemon:
        wait_for(lambda: runs(daemon))
        slot.mkdir()  # nobody can write the next record, not even root
        with Client(daemon.port) as client:
            wait_for(lambda: client.ask({"input": [999.0, 1.0]}) and trial(daemon).get("state") == "stopped")
        # The replica that failed on the way is another reason, for a moment.
        wait_for(lambda: any("stopped on this host only" in reason for reason in daemon.status()["reasons"]))
        assert daemon.status()["degraded"]
        [fault] = [reason for reason in daemon.status()["reasons"] if "stopped on this host only" in reason]
        assert "could not be recorded" in fault
        assert json.loads((rig.state_dir / "brakes.json").read_text())["m"]["version"] == "2"
    with rig.running() as daemon:
        assert trial(daemon)["state"] == "stopped"
        assert rig.ask(999.0)["output"] == "v1"
        assert "2" not in rig.versions()
    slot.rmdir()
    with rig.running() as daemon:
        wait_for(lambda: rig.registry.history("m", limit=1)[0].op == "abort")
        wait_for(lambda: trial(daemon) == {} and not daemon.status()["degraded"])
    assert json.loads((rig.state_dir / "brakes.json").read_text()) == {}
