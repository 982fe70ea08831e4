"""Events of a bucket: what they are about, whatever way they came, and what happens when none can be had."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from clipperfs.serverd import event_waiter
from clipperfs.serverd.event_waiter import EventWaiter, read_key

from clipperfs.errors import InvalidSetting, StorageUnavailable
from clipperfs.layout import Subject
from clipperfs.store.s3_events import EventQueue, objects_of

RECORD = {"s3": {"bucket": {"name": "b"}, "object": {"key": "a/models/m%2B1/x+y"}}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (json.dumps({"Records": [RECORD, RECORD]}), [("b", "a/models/m+1/x y")] * 2),
        (
            json.dumps({"Type": "Notification", "Message": json.dumps({"Records": [RECORD]})}),
            [("b", "a/models/m+1/x y")],
        ),
        (json.dumps({"detail": {"bucket": {"name": "b"}, "object": {"key": "a/x+y"}}}), [("b", "a/x+y")]),
        (json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}), []),
        (json.dumps({"Records": [{"s3": None}, 5, {"s3": {"bucket": "b"}}], "detail": []}), []),
        (json.dumps({"Records": 7, "Message": "{"}), []),
        ("no JSON", []),
        ("[]", []),
        ("[" * 100_000, []),
    ],
)
def test_message_names_its_objects_or_nothing(body: str, expected: list[tuple[str, str]]) -> None:
    assert list(objects_of(body)) == expected


@pytest.mark.parametrize(
    ("key", "subject", "copy"),
    [
        ("models/m/log/00000000000000000001.json", Subject("model", "m"), None),
        ("apps/a/log/00000000000000000001.json", Subject("app", "a"), None),
        ("models/m/log/.claim-0011223344556677", None, None),
        ("models/m/versions/1/sub/weights.bin", None, ("m", "1")),
        ("models/m/versions/.staging-1/weights.bin", None, None),
        ("apps/a/versions/1/x", None, None),
        ("models/../log/00000000000000000001.json", None, None),
        ("changes/1700000000000-00112233", None, None),
        ("models/m/checks/x", None, None),
        ("", None, None),
    ],
)
def test_key_is_about_a_ledger_a_copy_or_nothing(
    key: str, subject: Subject | None, copy: tuple[str, str] | None
) -> None:
    assert read_key(key) == (subject, copy)


@pytest.mark.parametrize("url", ["queue", "ftp://host/queue", "https://host", "https://host/"])
def test_address_that_is_none_of_a_queue_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="queue"):
        EventQueue(url, "s3://bucket/prefix")
    with pytest.raises(InvalidSetting, match="bucket"):
        EventQueue("https://sqs.eu-west-1.amazonaws.com/1/q", "file:///srv/models")


class Script:
    """Gives what it was told to, then waits for ever."""

    def __init__(self, *steps: list[str] | StorageUnavailable) -> None:
        self.steps = list(steps)
        self.is_over = threading.Event()

    def receive(self) -> list[str]:
        if not self.steps:
            self.is_over.set()
            threading.Event().wait(30)
            return []
        step = self.steps.pop(0)
        if isinstance(step, StorageUnavailable):
            raise step
        return step


def run(script: Script, on_poke: Callable[[], None]) -> tuple[EventWaiter, list[object]]:
    told: list[object] = []
    waiter = EventWaiter(
        script, on_subject=told.append, on_copy=lambda model, version: told.append((model, version)), poke=on_poke
    )
    waiter.start()
    assert script.is_over.wait(10)
    waiter.stop()
    return waiter, told


def test_events_are_told_before_the_look_and_others_cause_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_waiter, "GATHER_S", 0.01)
    pokes: list[int] = []
    log, copy = "models/m/log/00000000000000000002.json", "models/m/versions/1/a"
    waiter, told = run(Script([log, copy], [], ["replicas/r.json"], ["changes/x"]), lambda: pokes.append(1))
    assert told == [Subject("model", "m"), ("m", "1")]
    assert len(pokes) == 2
    assert waiter.failure is None


def test_failure_shows_until_events_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    failing = Script(StorageUnavailable("no queue there"), StorageUnavailable("no queue there"))
    waiter, _ = run(failing, lambda: None)
    assert waiter.failure == "no queue there"
    waiter, _ = run(Script(StorageUnavailable("no queue there"), []), lambda: None)
    assert waiter.failure is None
