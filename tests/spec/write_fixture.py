"""Writes a registry that uses the whole format: ``python tests/spec/write_fixture.py FOLDER``, once a format version.

What lies in ``tests/spec/fixtures/`` is never written again: it stands for registries that people have.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from clipperfs import Registry
from clipperfs.collect import collect
from clipperfs.digest import digest_bytes, digest_file
from clipperfs.documents import (
    ChangeHint,
    LoadedVersion,
    ReplicaStatus,
    ServedModel,
    canonical_bytes,
)
from clipperfs.errors import ActivationRefused
from clipperfs.source import write_manifest

FAR = 4102444800.0
"""The first second of 2100: later than every grace and every time in the fixture."""


def write(folder: Path, **files: str) -> Path:
    """Write a version's files; ``_`` in a keyword stands for ``.`` and ``__`` for ``/``."""
    for keyword, text in files.items():
        path = folder / keyword.replace("__", "/").replace("_", ".").lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def write_digits(registry: Registry, root: Path, place: Path) -> None:
    """A model with everything: inheritance, an alias, a pin, a refusal, a rollback, retired and purged versions."""
    author = (
        "wrapper: {kind: noop, output: 1}\ninput_type: doubles\nsample: [[0.0, 1.0], [2.5, -1.0]]\nlabels: {team: a}\n"
    )
    registry.publish("digits", "1", write(place / "1", model_yaml=author, weights_bin="one"), reason="first")
    registry.activate("digits", "1", reason="it is the only one")
    only_weights = write(place / "2", weights_bin="two", sub__tool_sh="#!/bin/sh\n")
    os.chmod(only_weights / "sub/tool.sh", 0o755)
    registry.publish("digits", "2", only_weights)
    registry.activate("digits", "2", expect_seq=3)
    registry.alias("digits", "stable", "1")
    registry.pin("digits", "1")
    policy = {"replicas": 2, "cache": "off", "hooks": [{"latency": {"p99_ms": 10_000}}], "keep_previous_s": 1.5}
    registry.policy("digits", policy, reason="größer — ﬁt for two")
    registry.publish(
        "digits", "3.0.0-rc1", write(place / "3", model_yaml="wrapper: no-such-wrapper\n", weights_bin="3")
    )
    with contextlib.suppress(ActivationRefused):
        registry.activate("digits", "3.0.0-rc1")
    registry.retire("digits", "3.0.0-rc1", reason="it never worked")
    registry.rollback("digits", reason="two answers oddly")
    registry.publish("digits", "gone", write(place / "gone", model_yaml="wrapper: noop\n", weights_bin="gone"))
    registry.policy("digits", {"grace_s": 0})
    registry.delete("digits", "gone")
    collect(registry.workspace, now_unix_s=FAR - 1)
    registry.policy("digits", {"grace_s": None})
    registry.publish("digits", "doomed", write(place / "doomed", model_yaml="wrapper: noop\n", weights_bin="doomed"))
    registry.delete("digits", "doomed", reason="not needed")


def write_copies(registry: Registry, root: Path, place: Path) -> None:
    """A model that came by plain copies: with a manifest, sealed after a marker, and still incoming."""
    versions = root / "models/copied/versions"
    source = write(place / "with", model_yaml="wrapper: noop\n", weights_bin="with", sub___hidden="dot")
    write_manifest(source, wrapper=None, actor="copier@host")
    shutil.copytree(source, versions / "with-manifest")
    registry.seal("copied", "with-manifest")
    write(versions / "marked", weights_bin="marked", READY="")
    registry.seal("copied", "marked", wrapper="noop", reason="the marker is there")
    registry.activate("copied", "with-manifest")
    shutil.copytree(source, versions / "incoming")
    (versions / "incoming/weights.bin").write_text("wi")
    write(versions / "unsealed", weights_bin="unsealed")
    write(versions / ".staging-00112233445566778899", weights_bin="left behind")


def write_future(registry: Registry, root: Path) -> None:
    """A record by a writer of our own kind that is newer, or of another kind: unknown fields, another spelling."""
    log = root / "models/copied/log"
    newest = log / sorted(os.listdir(log))[-1]
    record = json.loads(newest.read_bytes())
    record.update(
        seq=record["seq"] + 1,
        prev=digest_bytes(newest.read_bytes()),
        nonce="another-writer-0001",
        op="annotate",
        actor="other/2.0",
        evidence={"ticket": 7},
        x_top={"a": [1, None, "é"]},
    )
    record["state"]["x_state"] = {"nested": {"kept": True}}
    record["state"]["active"]["x_pointer"] = "kept"
    record["state"]["policy"]["x_policy"] = 1.5
    text = json.dumps(record, ensure_ascii=True, separators=(",", ":"))
    (log / f"{record['seq']:020d}.json").write_text(text)


def write_apps(registry: Registry) -> None:
    """Applications: linked, unlinked, deleted and registered anew."""
    registry.app_register("reader", input_type="doubles", default_output="-1", slo_us=100_000, link="digits")
    registry.app_register("spare", input_type="strings", default_output='{"a": "ü"}', slo_us=20_000)
    registry.app_link("spare", "copied")
    registry.app_unlink("spare")
    registry.app_register("gone", input_type="ints", default_output="0", slo_us=1_000_000)
    registry.app_delete("gone", reason="no use")


def write_status(registry: Registry) -> None:
    """A replica's status, and a hint of a kind that this release does not write."""
    head = registry.head("digits")
    assert head is not None and head.record.state.active is not None
    active = head.record.state.active
    loaded = LoadedVersion(version=active.version, manifest=active.manifest, state="ready", replicas_ready=2)
    status = ReplicaStatus(
        replica="host-1",
        host="host-1.example",
        pid=4242,
        software="clipperfs 0.1.0",
        time="2026-11-20T12:00:00.000Z",
        expires_unix_s=1795176060.0,
        models={"digits": ServedModel(applied_seq=head.seq, active=active.version, versions=[loaded])},
    )
    registry.store.replace("replicas/host-1.json", canonical_bytes(status))
    registry.store.create(
        "changes/1795176060000-0123456789abcdef", canonical_bytes(ChangeHint(kind="app", name="reader", seq=1))
    )


def summary(registry: Registry) -> dict[str, object]:
    """Return what a reader must find in the registry."""
    models = {}
    for model in registry.models():
        head = registry.head(model)
        assert head is not None
        state = head.record.state
        models[model] = {
            "head": [head.seq, head.digest],
            "ops": [record.op for record in registry.history(model)],
            "active": [state.active.version, state.active.manifest] if state.active else None,
            "previous": state.previous.version if state.previous else None,
            "aliases": {name: pointer.version for name, pointer in state.aliases.items()},
            "retired": {name: mark.stage for name, mark in state.retired.items()},
            "policy": state.policy.model_dump(mode="json"),
            "versions": {view.version: [view.state, view.manifest_digest] for view in registry.versions(model)},
        }
    apps = {name: registry.app_show(name).state.model_dump(mode="json") for name in registry.apps()}
    report = registry.verify()
    counts = {"records": report.records, "versions": report.versions, "files": report.files}
    return {"models": models, "apps": apps, "counts": counts, "ok": report.ok}


def main(folder: str) -> None:
    """Write the registry, what a reader must find in it, and the digests of all its files."""
    top = Path(folder)
    if top.exists():
        sys.exit(f"{top} exists: a fixture is written once and never again")
    root = top / "registry"
    with tempfile.TemporaryDirectory() as scratch:
        registry = Registry.init(root, cache_dir=Path(scratch, "cache"), actor="ana@example")
        place = Path(scratch, "sources")
        write_digits(registry, root, place)
        write_copies(registry, root, place)
        write_future(registry, root)
        write_apps(registry)
        write_status(registry)
        text = json.dumps(summary(registry), indent=1, sort_keys=True, ensure_ascii=False)
        (top / "expected.json").write_text(text + "\n")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sums = "".join(f"{digest_file(path)[0]}  {path.relative_to(top).as_posix()}\n" for path in files)
    (top / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main(sys.argv[1])
