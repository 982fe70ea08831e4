"""All daemons of a registry: which statuses hold, by whose clock, and what is said of each model."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clipperfs import Registry, layout
from clipperfs.cli.root import clipperfs
from clipperfs.cluster import age
from clipperfs.documents import LoadedVersion, ModelState, Pointer, ReplicaStatus, ServedModel, canonical_bytes
from clipperfs.errors import NotFound
from clipperfs.ledger import Draft
from clipperfs.limits import LIMITS
from clipperfs.presence import LONGEST_LIFE_S, date, read_presences

MANIFEST = "b" * 64
LIFE_S = 90.0


class Cluster:
    """A registry in which model ``m`` has version 7 active, and statuses that tests write."""

    def __init__(self, place: Path) -> None:
        self.registry = Registry.init(place / "registry", cache_dir=place / "cache", probe="skip")
        self.folder = place / "registry" / "replicas"
        self.append("7")

    def append(self, version: str | None, model: str = "m", **policy: Any) -> int:
        """Append a record that makes a version active; return its number."""

        def decide(head: Any) -> Draft:
            seq = head.seq + 1 if head else 1
            active = Pointer(version=version, manifest=MANIFEST, seq=seq) if version else None
            state = ModelState.model_validate({"active": active, "policy": policy})
            return Draft("activate", state)

        head, _ = self.registry.workspace.model_ledger(model).append(decide, actor="test")
        assert head is not None
        return head.seq

    def report(
        self, name: str, applied: int = 1, *, clock_ahead_s: float = 0.0, age_s: float = 0.0, **more: Any
    ) -> None:
        """Write the status of a daemon whose clock is wrong by some seconds, some seconds ago."""
        written = time.time() - age_s
        models = {
            model: ServedModel(
                applied_seq=applied,
                active="7",
                versions=[
                    LoadedVersion(
                        version="7",
                        manifest=MANIFEST,
                        state=more.get("state", "ready"),
                        reason=more.get("reason"),
                        replicas_ready=more.get("ready", 1),
                        replicas_wanted=more.get("wanted", 1),
                    )
                ],
            )
            for model in more.get("models", ["m"])
        }
        said = written + clock_ahead_s
        status = ReplicaStatus(
            replica=name,
            host=f"{name}.example",
            pid=1,
            software="clipperfs 0.1.0",
            time=datetime.fromtimestamp(said, UTC).isoformat(timespec="milliseconds"),
            expires_unix_s=said + LIFE_S,
            models=models,
        )
        self.registry.store.replace(layout.replica_status(name), canonical_bytes(status))
        os.utime(self.folder / f"{name}.json", (written, written))

    def run(self, *arguments: str, exits: int = 0) -> Result:
        result = CliRunner().invoke(clipperfs, ["--registry", self.registry.url, "status", "--cluster", *arguments])
        assert result.exit_code == exits, result.output + result.stderr
        return result


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_daemons_that_serve_the_head_are_ok(cluster: Cluster) -> None:
    for name in ("host-a", "host-b"):
        cluster.report(name)
    text = cluster.run().stdout
    assert "daemons    2 live\n" in text and "state      ok\n" in text
    assert "m: 2 of 2 daemons serve 7 (record 1)" in text
    document = json.loads(cluster.run("--json").stdout)
    assert [one["replica"] for one in document["daemons"]] == ["host-a", "host-b"]
    assert document["models"][0]["serving"] == ["host-a", "host-b"] and not document["degraded"]


def test_refusal_lag_and_missing_replicas_are_named_and_exit_8(cluster: Cluster) -> None:
    cluster.append("7")
    cluster.report("host-a", 2)
    cluster.report("host-b", 1)
    cluster.report("host-c", 2, state="quarantined", reason="hook smoke: wrong\x1b[2J")
    cluster.report("host-d", 2, ready=1, wanted=2, reason="crashed")
    text = cluster.run(exits=8).stdout
    assert (
        "m: 2 of 4 daemons serve 7 (record 2); host-b has applied record 1, not yet 2; "
        "host-c refused version 7: hook smoke: wrong\\x1b[2J" in text
    )
    assert "host-d has 1 of 2 replicas of version 7 of m: crashed" in text
    [model] = cluster.registry.cluster().models
    assert (set(model.pending), set(model.refused)) == ({"host-b"}, {"host-c"})
    assert {one.replica: one.models[0].behind for one in cluster.registry.cluster().daemons}["host-b"] == 1


def test_daemon_that_was_not_heard_of_in_time_is_expired(cluster: Cluster) -> None:
    cluster.report("host-a")
    cluster.report("host-b", age_s=600.0)
    report = cluster.registry.cluster()
    assert [one.state for one in report.daemons] == ["live", "expired"]
    assert report.models[0].daemons == 1
    assert "host-b on host-b.example was last heard 10 min ago" in cluster.run(exits=8).stdout


@pytest.mark.parametrize("ahead_s", [-7300.0, 7300.0])
def test_daemon_whose_clock_is_wrong_counts_by_the_storages_clock(cluster: Cluster, ahead_s: float) -> None:
    cluster.report("alive", clock_ahead_s=ahead_s, age_s=30.0)
    cluster.report("dead", clock_ahead_s=ahead_s, age_s=120.0)
    report = cluster.registry.cluster()
    assert {one.replica: one.state for one in report.daemons} == {"alive": "live", "dead": "expired"}
    assert any("the clock of alive on alive.example is 2 h" in note for note in report.notes)


def test_reader_whose_clock_is_behind_takes_the_newest_file_for_the_present(cluster: Cluster) -> None:
    cluster.report("alive")
    cluster.report("dead", age_s=120.0)
    seen = read_presences(cluster.registry.store, now_unix_s=time.time() - 86_400).seen
    assert {one.status.replica: one.is_live for one in seen} == {"alive": True, "dead": False}


def test_storage_without_times_leaves_the_daemons_own_clock() -> None:
    def at(expires: float) -> ReplicaStatus:
        moment = datetime.fromtimestamp(1000.0, UTC).isoformat()
        return ReplicaStatus(replica="a", host="a", pid=1, software="x", time=moment, expires_unix_s=expires)

    assert date(at(1090.0), 0.0, now_unix_s=1089.0).is_live
    assert not date(at(1090.0), 0.0, now_unix_s=1091.0).is_live


def test_forged_status_holds_for_a_day_at_most(cluster: Cluster) -> None:
    moment = datetime.fromtimestamp(1000.0, UTC).isoformat()
    for time_text in (moment, "never", "9" * 5000):
        forged = ReplicaStatus(replica="a", host="a", pid=1, software="x", time=time_text, expires_unix_s=1e300)
        young, old = (date(forged, 1000.0, now_unix_s=1000.0 + age) for age in (5.0, LONGEST_LIFE_S + 1))
        assert young.is_live and young.may_live and not old.is_live and not old.may_live


def test_status_that_only_the_daemons_own_clock_lets_hold_may_live() -> None:
    moment = datetime.fromtimestamp(5000.0, UTC).isoformat()
    ahead = ReplicaStatus(replica="a", host="a", pid=1, software="x", time=moment, expires_unix_s=5090.0)
    seen = date(ahead, 1000.0, now_unix_s=1100.0)
    assert not seen.is_live and seen.may_live


def test_garbage_and_foreign_files_are_named_and_break_nothing(cluster: Cluster) -> None:
    cluster.report("host-a")
    store = cluster.registry.store
    store.replace("replicas/torn.json", b'{"schema": "clip')
    store.replace("replicas/empty.json", b"")
    store.replace("replicas/array.json", b"[" * 100)
    store.replace("replicas/notes.txt", b"hello")
    store.replace("replicas/.claim-0123456789abcdef", b"half")
    store.replace("replicas/other.json", (cluster.folder / "host-a.json").read_bytes())
    store.replace("replicas/evil\x1b[2J\u202e.json", b"{}")
    with open(cluster.folder / "huge.json", "wb") as huge:
        huge.truncate(LIMITS.status_bytes + 1)
    (cluster.folder / "folder.json").mkdir()
    (cluster.folder / "link.json").symlink_to(cluster.folder / "host-a.json")
    os.mkfifo(cluster.folder / "pipe.json")
    report = cluster.registry.cluster()
    assert [one.replica for one in report.daemons] == ["host-a"] and not report.degraded
    assert {name for name, _ in report.ignored} == {
        "torn.json", "empty.json", "array.json", "notes.txt", "other.json", "evil\x1b[2J\u202e.json", "huge.json",
        "folder.json", "link.json", "pipe.json",
    }  # fmt: skip
    text = cluster.run().stdout
    assert "\x1b" not in text and "\u202e" not in text and "ignored    replicas/huge.json has 4194305 bytes" in text


def test_names_in_a_status_that_break_the_grammar_are_left_out(cluster: Cluster) -> None:
    cluster.report("host-a", models=["m", "../../etc", "M", "a\x1b[2J"])
    report = cluster.registry.cluster()
    assert [one.model for one in report.models] == ["m"]
    assert [one.model for one in report.daemons[0].models] == ["m"]


@pytest.mark.parametrize("applied", [-5, 10**15, 9])
def test_daemon_ahead_of_the_log_is_an_alarm(cluster: Cluster, applied: int) -> None:
    cluster.report("host-a", applied)
    text = cluster.run(exits=8).stdout
    assert ("records were taken away" in text) is (applied > 1)


def test_damaged_log_is_an_alarm_and_others_are_shown(cluster: Cluster) -> None:
    cluster.append("7", model="n")
    cluster.report("host-a", models=["m", "n", "unheard"])
    slot = layout.slot(layout.model_subject("n"), 1)
    cluster.registry.store.replace(slot, b"{}")
    text = cluster.run(exits=8).stdout
    assert "n: record 1 of model n is damaged" in text
    assert "m: 1 of 1 daemon serves 7" in text
    assert "unheard: daemons follow it, but the registry has no records of it" in text


def test_one_model_alone(cluster: Cluster) -> None:
    cluster.append("7", model="n")
    cluster.report("host-a", models=["m", "n"])
    cluster.report("host-b", 1, models=["n"], state="quarantined", reason="no")
    assert "n" not in json.dumps(
        [one["model"] for one in json.loads(cluster.run("--model", "m", "--json").stdout)["models"]]
    )
    cluster.run("--model", "n", exits=8)
    cluster.run("--model", "Nothing", exits=2)
    with pytest.raises(NotFound):
        cluster.registry.cluster("nothing")


def test_no_daemon_at_all_is_degraded(cluster: Cluster) -> None:
    assert "no daemon reports to this registry" in cluster.run(exits=8).stdout
    assert "m: no daemon serves 7 (record 1)" in cluster.run("--model", "m", exits=8).stdout


def test_model_that_is_off_or_has_no_active_version_is_no_fault(cluster: Cluster) -> None:
    seq = cluster.append("7", replicas=0)
    cluster.report("host-a", seq, state="draining")
    assert "m: 1 of 1 daemon keeps it off, as its policy says" in cluster.run().stdout
    seq = cluster.append(None)
    cluster.report("host-a", seq)
    assert "m: no version is active" in cluster.run().stdout


def test_model_and_every_go_with_cluster_only() -> None:
    for option in (["--model", "m"], ["--every", "1s"]):
        assert CliRunner().invoke(clipperfs, ["--registry", "/nowhere", "status", *option]).exit_code == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (600, "10 min"), (7200, "2 h"), (9e5, "10 days")]
)
def test_age_for_people(seconds: float, text: str) -> None:
    assert age(seconds) == text
