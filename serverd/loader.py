"""Bring one version from the registry to the point where it could answer: fetch, verify, read its settings, warm up.

These are the cheap hooks (``integrity`` and ``loadable``) once more, on this host and on the very copy that is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperfs.serverd.desired import WantedVersion
from clipperfs.serverd.easing import eased_thread
from clipperfs.serverd.supervisor import Replica, Supervisor

from clipperfs.checking.predictor import DEFAULT_INPUT_TYPE
from clipperfs.checking.sample import read_sample
from clipperfs.digest import Digest
from clipperfs.documents import InputType, VersionSettings
from clipperfs.documents.author import effective_settings
from clipperfs.documents.signature import SignedPolicy
from clipperfs.errors import DamagedVersion, LoadFailed
from clipperfs.materialise import Materialised, materialise, verify_copy
from clipperfs.names import model_name, version_name
from clipperfs.plugins import require_plugin
from clipperfs.signing.trust import require_publisher
from clipperfs.workspace import Workspace

DEFAULT_MAX_BATCH = 512
WARM_UP_BATCH = 32
"""The bigger of the two batches of a warm-up, where the model takes that many."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version on this host, proven byte for byte, with everything that starting a replica needs."""

    copy: Materialised
    settings: VersionSettings
    wrapper_kind: str
    options: dict[str, Any]
    input_type: InputType
    sample: list[Any] | None
    max_batch: int

    @property
    def path(self) -> Path:
        """Return where the files are."""
        return self.copy.path

    def release(self) -> None:
        """Let the cache evict the files."""
        self.copy.lease.release()


def prepare(workspace: Workspace, model: str, wanted: WantedVersion, policy: SignedPolicy) -> Prepared:
    """Fetch and verify a version. Blocks on the registry and the disk; call it on a thread.

    A copy in the cache whose bytes have changed is fetched once more.

    Raises:
        ActivationRefused: it needs a signature and has none that counts. Nothing of it was fetched.
        NotFound, IncompleteVersion, DamagedVersion: the registry has no such version, or not with these bytes.
        LoadFailed: it names no wrapper.
        InvalidSetting: it names one that is not installed.
        StorageError: the registry or the cache cannot be used.
    """
    with eased_thread():  # hashing a large version keeps a core busy
        return _prepare(workspace, model, wanted, policy)


def _prepare(workspace: Workspace, model: str, wanted: WantedVersion, policy: SignedPolicy) -> Prepared:
    names = model_name(model), version_name(wanted.version)
    digest = Digest(wanted.manifest)
    require_publisher(workspace, *names, digest, policy)
    copy = materialise(workspace, *names, digest=digest)
    try:
        if damaged := verify_copy(copy):
            workspace.cache.discard(digest, copy.manifest)
            copy.lease.release()
            copy = materialise(workspace, *names, digest=digest)
            damaged = verify_copy(copy)
        if damaged:
            raise DamagedVersion(
                f"version {wanted.version} of model {model} is damaged on this host: {', '.join(damaged[:3])}",
                hint="look at the disk that holds the cache",
            )
        settings = effective_settings(copy.manifest.settings, dict(wanted.inherited))
        if settings.wrapper is None:
            raise LoadFailed(
                f"version {wanted.version} of model {model} names no wrapper",
                hint="publish it with --wrapper KIND, or with a model.yaml that says 'wrapper: KIND'",
            )
        require_plugin("clipperfs.wrappers", settings.wrapper.kind)
        return Prepared(
            copy=copy,
            settings=settings,
            wrapper_kind=settings.wrapper.kind,
            options=settings.wrapper.options,
            input_type=settings.input_type or DEFAULT_INPUT_TYPE,
            sample=read_sample(copy.path, settings),
            max_batch=settings.max_batch or DEFAULT_MAX_BATCH,
        )
    except BaseException:
        copy.lease.release()
        raise


def warm_up_batches(sample: Sequence[Any] | None, max_batch: int) -> list[list[Any]]:
    """Return the batches of a warm-up: one input, the whole sample, and a bigger batch of repeated inputs. Pure."""
    if not sample:
        return []
    inputs = list(sample)
    size = min(max_batch, WARM_UP_BATCH)
    batches = [inputs[:1]]
    batches += [inputs[at : at + max_batch] for at in range(0, len(inputs), max_batch)] if len(inputs) > 1 else []
    if len(inputs) < size:
        batches.append([inputs[index % len(inputs)] for index in range(size)])
    return batches


async def warm_up(
    supervisor: Supervisor, replica: Replica, prepared: Prepared, *, load_timeout_s: float, predict_timeout_s: float
) -> None:
    """Wait until a replica has loaded, then have it answer its sample.

    Raises LoadFailed, PredictFailed, InvalidInput, ReplicaLost, TimedOut.
    """
    await supervisor.await_loaded(replica, load_timeout_s)
    for batch in warm_up_batches(prepared.sample, prepared.max_batch):
        outputs = await supervisor.predict(replica, batch, predict_timeout_s)
        if len(outputs) != len(batch):
            raise LoadFailed(f"it answered {len(batch)} inputs of its sample with {len(outputs)} outputs")
