"""The tour: two models of handwritten digits are published, served, switched under load, refused and rolled back.

Everything is real: the data ships with scikit-learn, the daemon is the one for production, and the registry lies in a
folder, or below an address in a bucket or on HDFS, which is all that then differs.
"""

from __future__ import annotations

import secrets
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
from clipperfs.errors import ActivationRefused, ClipperfsError, InvalidSetting, StorageError, TimedOut
from clipperfs.initialise import Effort
from clipperfs.layout import MANIFEST_FILE, REGISTRY, payload
from clipperfs.layout import version as version_folder
from clipperfs.names import ModelName, VersionName
from clipperfs.registry import Registry
from clipperfs.source import write_manifest
from clipperfs.store import canonical_url, open_store

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


def main(
    place: Path | None = None,
    *,
    say: Callable[[str], None] | None = None,
    url: str | None = None,
    probe: Effort | None = None,
) -> int:
    """Run the tour; return an exit code.

    Args:
        place: a new folder to work in, which is kept; by default a temporary one that is removed.
        say: is told each line.
        url: an address below which the registry gets a fresh prefix of its own, ``demo-…``, which is removed in the end
            unless there is a ``place`` to keep; by default the registry lies in ``place``.
        probe: how hard ``Registry.init`` looks at the filesystem.

    Raises InvalidSetting when scikit-learn is not installed, or when ``url`` is or lies in somebody's registry.
    """
    data = load_digits()
    say = say or (lambda line: print(line, flush=True))
    with ExitStack() as stack:
        if url is not None:
            parent = canonical_url(url)
            refuse_others_registry(parent)
            name = f"demo-{secrets.token_hex(6)}"
            address = f"{parent.rstrip('/')}/{name}"
            if place is None:
                stack.callback(_remove, parent, name, say)
            else:
                stack.callback(say, f"The registry stays at {address}")
        if place is None:
            place = Path(tempfile.mkdtemp(prefix="clipperfs-demo-"))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
        place = Path(place)
        if url is None:
            return _tour(place, str(place / "registry"), probe, data, stack, say)
        return _tour(place, address, probe or "quick", data, stack, say)  # a tour loses little that is worth minutes


def refuse_others_registry(parent: str) -> None:
    """Raise InvalidSetting when an address is that of a registry, or lies inside one."""
    scheme, _, path = parent.partition("://")
    segments = path.split("/")
    for count in range(len(segments), 0, -1):
        address = f"{scheme}://{'/'.join(segments[:count]) or '/'}"
        try:
            is_registry = open_store(address).stat(REGISTRY) is not None
        except StorageError:
            if count == len(segments):
                raise
            continue  # who may not look there may not be harmed there either
        if is_registry:
            raise InvalidSetting(
                f"{address} is a registry; the tour never writes into one that is not its own",
                hint="give an address beside it: the tour makes a prefix demo-… below that, and removes it in the end",
            )


def copy_plainly(registry: Registry, source: Path, model: ModelName, version: VersionName) -> str:
    """Copy a version's folder into the registry as any tool for copying would; return what was done.

    To a bucket or HDFS, file by file and the manifest first: the order in which files arrive does not matter.
    """
    target = registry.store.local_path(version_folder(model, version))
    if target is not None:
        shutil.copytree(source, target)
        return "cp -r into the registry's folder"
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name != MANIFEST_FILE):
        registry.store.upload(path, payload(model, version, path.relative_to(source).as_posix()))
    return "one upload for each file, the manifest first"


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


def _tour(
    place: Path, address: str, probe: Effort | None, data: Digits, stack: ExitStack, say: Callable[[str], None]
) -> int:
    say("1. Train a first model, a better one, and one spoilt by wrong labels")
    first, better, spoilt = train_models(place, data)

    registry = Registry.init(address, cache_dir=place / "cache", probe=probe)
    say(f"2. A registry is only files: {registry.url}")
    registry.publish(MODEL, "1", first, activate=True, reason="first model")
    say(f"   {MODEL}/1 published from Python and activated; its hooks passed")
    registry.app_register(APP, input_type="doubles", default_output="unknown", slo_us=SLO_US, link=MODEL)

    daemon = stack.enter_context(
        Daemon(registry, port=0, admin_port=None, state_dir=place / "state", poll_s=0.5, sweep_s=1.0)
    )
    url = f"http://127.0.0.1:{daemon.port}"
    say(f"3. The daemon answers at {url}/{APP}/predict")
    held = data.held_rows.tolist()
    say(f"   accuracy of version 1 on {len(held)} held-out rows: {_accuracy(url, held, data.held_labels):.3f}")

    say(f"4. Publish version 2 by a plain copy, while {CLIENTS} clients keep asking")
    # Without the cache every answer comes from a model.
    policy = {"activation": "on-publish", "cache": "off"}
    registry.policy(MODEL, policy, reason="let the daemon activate what passes")
    with Load(url, held) as load:
        time.sleep(0.5)
        write_manifest(better, wrapper=None, actor="demo")
        done = copy_plainly(registry, better, ModelName(MODEL), VersionName("2"))
        began = time.monotonic()
        _wait_until(lambda: load.answers["2"] > 0, "version 2 to answer")
        took = time.monotonic() - began
        time.sleep(0.5)
    say(f"   copied by {done}")
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


def _remove(parent: str, name: str, say: Callable[[str], None]) -> None:
    """Remove the tour's own registry, or say what is left of it."""
    try:
        open_store(parent).delete_folder(name)
    except StorageError as error:
        say(f"{parent}/{name} could not be removed, and may be: {error}")
    else:
        say(f"{parent}/{name} is removed.")


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
