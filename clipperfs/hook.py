"""The hook contract: a check that a candidate passes before it becomes active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from clipperfs.documents import Manifest, Verdict, VersionSettings

ALWAYS = ("integrity", "loadable")
"""The cheap checks: they run before every activation and rollback, and again in the daemon."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One version as a hook sees it: verified files, what its manifest says, and a way to run its wrapper."""

    model: str
    version: str
    manifest_digest: str
    manifest: Manifest
    settings: VersionSettings
    """Effective settings: the manifest's, filled from the version that was active."""
    path: Path
    """The version's files: a private, verified copy. Changing it is noticed, and refuses the candidate."""
    predictor: Predictor

    def load(self) -> None:
        """Start the wrapper in its own process and load the version, unless that has been done. Raises LoadFailed."""
        self.predictor.load()

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """Run the wrapper in its own process on ``inputs`` (as JSON would give them); return one output for each.

        The process is started on first use and shared by the hooks of one run. The time it takes to load does not
        count against the hook's limit: the policy's ``load_timeout_s`` holds for it.

        Raises:
            LoadFailed: the wrapper does not load.
            InvalidInput: an input does not fit the version's input type.
            PredictFailed: it raised, or returned the wrong number or type of outputs.
            ReplicaLost: its process died.
        """
        return self.predictor.predict(inputs)

    def predict_timed(self, inputs: Sequence[Any]) -> tuple[list[Any], float]:
        """Like :meth:`predict`; also return how long the wrapper took, in milliseconds, without transport."""
        return self.predictor.predict_timed(inputs)

    def sample(self) -> list[Any] | None:
        """Return the author's sample inputs, or ``None`` when there are none. Raises DamagedVersion."""
        return self.predictor.sample()


class Predictor(Protocol):
    """Runs a version's wrapper; starts its process lazily. Not for several threads at once."""

    def load(self) -> None: ...
    def predict(self, inputs: Sequence[Any]) -> list[Any]: ...
    def predict_timed(self, inputs: Sequence[Any]) -> tuple[list[Any], float]: ...
    def sample(self) -> list[Any] | None: ...


@dataclass(frozen=True, slots=True)
class HookContext:
    """What a hook is given."""

    candidate: Subject
    active: Subject | None
    """The version that is active now, or ``None`` for the first activation."""
    time_limit_s: float
    """After this long the hook's process is killed; the verdict is then ``timeout``."""
    allow_code: bool
    """Whether the model's policy lets the version run code of its own."""
    from_policy: bool
    """Whether the model's policy names this hook (then paths are the operator's), or only the version itself."""
    registry_url: str = ""
    """Where the registry is, for the text of messages and for commands."""


@runtime_checkable
class Hook(Protocol):
    """A check. Made with its options (as in ``model.yaml``), found through the entry-point group ``clipperfs.hooks``.

    A constructor that cannot use its options raises InvalidSetting and names the option.
    """

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def check(self, context: HookContext) -> Verdict:
        """Return a verdict. An exception counts as ``error`` and refuses the candidate (fail closed)."""
