"""The tour: two models of handwritten digits are published, served, switched under load, refused and rolled back.

Everything is real: the data ships with scikit-learn, the registry is a folder, the daemon is the one for production.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipperfs.client import Client
from clipperfs.daemon import Daemon
from clipperfs.errors import ActivationRefused, ClipperfsError, InvalidSetting, TimedOut
from clipperfs.publish import write_manifest
from clipperfs.registry import Registry

MODEL = "digits"
APP = "digit-reader"
CLIENTS = 4
PAUSE_S = 0.004
"""Between two requests of a client, so that a laptop has processors left for the switch itself."""
SLO_US = 2_000_000
"""Long, because a laptop may be busy: a request that misses it counts as failed here."""
SWITCH_TIMEOUT_S = 60.0

MODEL_YAML = """\
wrapper: sklearn
input_type: doubles
hooks:
  - quality: {metric: accuracy, floor: 0.85, delta: 0.02}
"""


@dataclass(slots=True)
class Digits:
    """The data, split once: rows of 64 pixels from 0 to 16, and the digit that each shows."""

    train_rows: Any
    train_labels: Any
    held_rows: Any
    held_labels: Any


@dataclass(slots=True)
class Load:
    """Clients that keep asking, and what they were answered."""

    url: str
    rows: list[list[float]]
    answers: Counter[str] = field(default_factory=Counter)
    """How many answers each version gave."""
    failures: list[str] = field(default_factory=list)
    """Of each request that got an error or the default output: why."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with Client(self.url) as client:
            at = number
            while not self._stop.wait(PAUSE_S):
                try:
                    reply = client.predict(APP, self.rows[at % len(self.rows)])
                    if reply.default:
                        self.failures.append(reply.default_explanation or "default output")
                    else:
                        with self._lock:
                            self.answers[reply.version or "?"] += 1
                except (ClipperfsError, OSError) as error:
                    self.failures.append(str(error))
                at += CLIENTS


def main(place: Path | None = None, *, say: Callable[[str], None] | None = None) -> int:
    """Run the tour in ``place`` (by default a temporary folder that is removed); return an exit code.

    Raises InvalidSetting when scikit-learn is not installed.
    """
    data = load_digits()
    with ExitStack() as stack:
        if place is None:
            place = Path(tempfile.mkdtemp(prefix="clipperfs-demo-"))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
        return _tour(Path(place), data, stack, say or (lambda line: print(line, flush=True)))


def load_digits() -> Digits:
    """Return scikit-learn's digits, a third of them held out. Raises InvalidSetting without scikit-learn."""
    try:
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise InvalidSetting(
            "the demo needs scikit-learn and skops", hint="pip install 'clipperfs[sklearn]'"
        ) from error
    rows, labels = load(return_X_y=True)
    split = train_test_split(rows, labels, test_size=1 / 3, random_state=0, stratify=labels)
    return Digits(split[0], split[2], split[1], split[3])


def write_model(folder: Path, estimator: Any, data: Digits) -> Path:
    """Write a fitted estimator as a version's folder: the model, its settings, a sample and the held-out rows."""
    import json

    import numpy as np
    import skops.io

    folder.mkdir(parents=True)
    skops.io.dump(estimator, folder / "model.skops")
    np.savez_compressed(folder / "holdout.npz", x=data.held_rows, y=data.held_labels)
    (folder / "sample.json").write_text(json.dumps(data.held_rows[:5].tolist()))
    (folder / "model.yaml").write_text(MODEL_YAML + "sample: sample.json\n")
    return folder


def train_models(place: Path, data: Digits) -> tuple[Path, Path, Path]:
    """Train a first model, a better one, and one on labels of which half are wrong; return the folder of each."""
    from sklearn.naive_bayes import GaussianNB
    from sklearn.svm import SVC

    shuffled = data.train_labels.copy()
    shuffled[::2] = shuffled[::2][::-1]
    first = GaussianNB(var_smoothing=1e-2).fit(data.train_rows, data.train_labels)
    better = SVC(gamma=0.001).fit(data.train_rows, data.train_labels)
    spoilt = GaussianNB(var_smoothing=1e-2).fit(data.train_rows, shuffled)
    return (
        write_model(place / "first", first, data),
        write_model(place / "better", better, data),
        write_model(place / "spoilt", spoilt, data),
    )


def _tour(place: Path, data: Digits, stack: ExitStack, say: Callable[[str], None]) -> int:
    say("1. Train a first model, a better one, and one spoilt by wrong labels")
    first, better, spoilt = train_models(place, data)

    registry = Registry.init(place / "registry", cache_dir=place / "cache")
    say(f"2. A registry is a folder: {registry.url}")
    registry.publish(MODEL, "1", first, activate=True, reason="first model")
    say(f"   {MODEL}/1 published from Python and activated; its hooks passed")
    registry.app_register(APP, input_type="doubles", default_output="unknown", slo_us=SLO_US, link=MODEL)

    daemon = stack.enter_context(Daemon(registry, port=0, admin_port=None, state_dir=place / "state", poll_s=0.5))
    url = f"http://127.0.0.1:{daemon.port}"
    say(f"3. The daemon answers at {url}/{APP}/predict")
    held = data.held_rows.tolist()
    say(f"   accuracy of version 1 on {len(held)} held-out rows: {_accuracy(url, held, data.held_labels):.3f}")

    say(f"4. Publish version 2 by copying its folder into the registry, while {CLIENTS} clients keep asking")
    # Without the cache every answer comes from a model.
    policy = {"activation": "on-publish", "cache": "off"}
    registry.policy(MODEL, policy, reason="let the daemon activate what passes")
    with Load(url, held) as load:
        time.sleep(0.5)
        write_manifest(better, wrapper=None, actor="demo")
        target = Path(registry.url.removeprefix("file://")) / "models" / MODEL / "versions" / "2"
        shutil.copytree(better, target)
        began = time.monotonic()
        _wait_until(lambda: load.answers["2"] > 0, "version 2 to answer")
        took = time.monotonic() - began
        time.sleep(0.5)
    say(f"   the copy was adopted, checked and activated; it answered {took:.1f} s after the copy ended")
    say(f"   answers during the switch: {dict(sorted(load.answers.items()))}; failed requests: {len(load.failures)}")
    say(f"   accuracy of version 2: {_accuracy(url, held, data.held_labels):.3f}")

    say("5. A worse model is refused")
    try:
        registry.publish(MODEL, "3", spoilt, reason="trained on the wrong labels")
        say("   it was NOT refused")
        return 1
    except ActivationRefused as refusal:
        say(f"   {refusal.message}")

    say("6. Roll back under load")
    with Load(url, held) as again:
        time.sleep(0.3)
        registry.rollback(MODEL, reason="practice for 3 a.m.")
        before = again.answers["1"]
        _wait_until(lambda: again.answers["1"] > before, "version 1 to answer again")
        time.sleep(0.3)
    say(f"   answers: {dict(sorted(again.answers.items()))}; failed requests: {len(again.failures)}")

    say("7. The history cannot be lost")
    for record in reversed(registry.history(MODEL)):
        checks = ", ".join(f"{verdict.hook} {verdict.outcome}" for verdict in record.evidence.verdicts)
        version = record.evidence.version or ""
        say(f"   {record.seq:>2}  {record.op:<9} {version:<3} {record.reason or '':<46} {checks}".rstrip())
    failures = load.failures + again.failures
    for failure in failures[:3]:
        say(f"   failed: {failure}")
    say(f"Done: {sum(load.answers.values()) + sum(again.answers.values())} answers, {len(failures)} failed requests.")
    return 1 if failures else 0


def _accuracy(url: str, rows: list[list[float]], labels: Any) -> float:
    with Client(url) as client:
        replies = client.predict(APP, batch=rows)
    right = sum(bool(reply.output == label) for reply, label in zip(replies, labels.tolist(), strict=True))
    return right / len(rows)


def _wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SWITCH_TIMEOUT_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {SWITCH_TIMEOUT_S:.0f} s for {what}")
        time.sleep(0.02)


if __name__ == "__main__":
    raise SystemExit(main())
