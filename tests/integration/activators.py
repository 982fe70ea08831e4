"""Processes that move one model's pointer at once, some of them killed in between: ``activators.py SETTINGS.json``.

Every process records what it asked and what it was told (``clipperfs.testing.history``). The operations are the public
ones and go the whole way to the log; only the hooks answer at once, because they would take a process each.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from clipperfs import Registry
from clipperfs.activate import Outcome
from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import ModelRecord, Verdict
from clipperfs.errors import ClipperfsError, Conflict, OutcomeUnknown
from clipperfs.testing.history import Recorder

MODEL = "m"
VERSIONS = ("1", "2", "3")
ALIASES = ("a", "b", "c")
WEIGHTS = {"read": 10, "resolve": 5, "activate": 20, "rollback": 8, "alias": 40, "unalias": 7, "count": 10}


def pass_all(request: CheckRequest) -> list[Verdict]:
    """Answer for every hook."""
    return [Verdict(hook=hook.name, outcome="passed") for hook in request.hooks]


class Activator:
    """One process: it carries out random operations and records each."""

    def __init__(self, settings: dict[str, Any], name: str, path: Path) -> None:
        self.settings = settings
        self.name = name
        self.random = random.Random(f"{settings['seed']} {name}")
        self.recorder = Recorder(path)
        self.registry = self.open()
        self.begun = 0
        self.last: ModelRecord | None = None
        """The newest record that the operation before this one saw, if it saw one."""

    def open(self) -> Registry:
        registry = Registry(self.settings["url"], cache_dir=self.settings["cache"], actor=self.name)
        if self.settings["opener"]:
            module, _, function = self.settings["opener"].partition(":")
            registry.workspace.store = getattr(importlib.import_module(module), function)(registry.url)
        return registry

    def run(self, count: int) -> None:
        while self.begun < count:
            [kind] = self.random.choices([*WEIGHTS], [*WEIGHTS.values()])
            self.perform(kind)

    def perform(self, kind: str) -> None:
        version = self.random.choice(VERSIONS)
        alias = self.random.choice(ALIASES)
        expect_seq = base = None
        if kind in ("activate", "alias", "count") and (kind == "count" or self.random.random() < 0.2):
            self.perform("read")
            if self.last is None:
                return
            expect_seq, base = self.last.seq, self.last.state.policy.grace_s
        self.begun += 1
        name = f"{self.name}-{self.begun}"
        self.recorder.invoke(name, kind=kind, version=version, alias=alias, expect_seq=expect_seq, base=base)
        self.last = None
        answer: Outcome | ModelRecord | None
        try:
            if kind in ("read", "resolve"):
                head = (self.registry if kind == "read" else self.open()).head(MODEL)
                answer = head.record if head is not None else None
            elif kind == "activate":
                answer = self.registry.activate(MODEL, version, expect_seq=expect_seq, reason=name)
            elif kind == "rollback":
                answer = self.registry.rollback(MODEL, reason=name)
            elif kind == "alias":
                answer = self.registry.alias(MODEL, alias, version, expect_seq=expect_seq, reason=name)
            elif kind == "unalias":
                answer = self.registry.alias(MODEL, alias, None, reason=name)
            else:
                assert base is not None
                answer = self.registry.policy(MODEL, {"grace_s": base + 1}, expect_seq=expect_seq, reason=name)
        except OutcomeUnknown:
            self.recorder.answer(name, "unknown")
        except Conflict as conflict:
            found = conflict.fields["found"]
            self.recorder.answer(name, "saw", seq=found["seq"], mark=found["nonce"], why="conflict")
        except ClipperfsError as error:
            self.recorder.answer(name, "refused", why=type(error).__name__)
        else:
            record = answer.record if isinstance(answer, Outcome) else answer
            wrote = isinstance(answer, Outcome) and answer.changed
            self.last = record
            if record is None:
                self.recorder.answer(name, "saw", seq=0)
            else:
                self.recorder.answer(name, "wrote" if wrote else "saw", seq=record.seq, mark=record.nonce)


def start(settings: dict[str, Any], number: int, life: int, count: int) -> int:
    """Fork one activator; return its process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.environ.update(settings["environments"][number % len(settings["environments"])])
        path = Path(settings["place"]) / f"{number}.{life}.jsonl"
        Activator(settings, f"p{number}.{life}", path).run(count)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def called(path: Path) -> int:
    """Return how many operations a process began."""
    return path.read_bytes().count(b'"asked"') if path.exists() else 0


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_bytes())
    runner.run_hooks = pass_all
    chance = random.Random(settings["seed"])
    place, kills = Path(settings["place"]), settings["kills"]
    running: dict[int, tuple[int, int, int]] = {}
    for number in range(settings["processes"]):
        running[start(settings, number, 0, settings["operations"])] = (number, 0, settings["operations"])
    failed = 0
    next_kill_s = time.monotonic() + settings["kill_every_s"]
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            number, life, wanted = running.pop(process)
            left = wanted - called(place / f"{number}.{life}.jsonl")
            if os.WIFSIGNALED(status) and left > 0:
                running[start(settings, number, life + 1, left)] = (number, life + 1, left)
            failed += not os.WIFSIGNALED(status) and status != 0
            continue
        if kills and time.monotonic() >= next_kill_s:
            kills -= 1
            os.kill(chance.choice([*running]), signal.SIGKILL)
            next_kill_s = time.monotonic() + chance.expovariate(1 / settings["kill_every_s"])
        time.sleep(0.01)
    sys.exit(failed)


main()
