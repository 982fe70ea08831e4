"""What one run of the hooks is about: the candidate, the active version, the planned hooks and their limits. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperfs.documents import Manifest, VersionSettings


@dataclass(frozen=True, slots=True)
class CheckSubject:
    """One version, as it lies in a private, verified copy."""

    version: str
    manifest_digest: str
    manifest: Manifest
    settings: VersionSettings
    """Effective settings: the manifest's, filled from the version that is active."""
    path: Path

    def as_tree(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_tree` understands."""
        return {
            "version": self.version,
            "manifest_digest": self.manifest_digest,
            "manifest": self.manifest.model_dump(mode="json", by_alias=True),
            "settings": self.settings.model_dump(mode="json"),
            "path": str(self.path),
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> CheckSubject:
        """Return the subject that :meth:`as_tree` described."""
        return cls(
            version=tree["version"],
            manifest_digest=tree["manifest_digest"],
            manifest=Manifest.model_validate(tree["manifest"]),
            settings=VersionSettings.model_validate(tree["settings"]),
            path=Path(tree["path"]),
        )


@dataclass(frozen=True, slots=True)
class PlannedHook:
    """One hook that is to run, with the options for its constructor."""

    name: str
    options: Mapping[str, Any]
    from_policy: bool
    """Whether the model's policy names it (or clipperfs itself), not only the version."""
    time_limit_s: float


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """Everything that a run of the hooks needs."""

    model: str
    candidate: CheckSubject
    active: CheckSubject | None
    hooks: Sequence[PlannedHook]
    allow_code: bool
    load_timeout_s: float
    """A wrapper that loads for longer counts as failed; this time does not count against a hook's own limit."""
    predict_timeout_s: float
    registry_url: str

    def to_json(self) -> bytes:
        """Return the request as JSON for another process."""
        tree = {
            "model": self.model,
            "candidate": self.candidate.as_tree(),
            "active": None if self.active is None else self.active.as_tree(),
            "hooks": [
                {
                    "name": hook.name,
                    "options": dict(hook.options),
                    "from_policy": hook.from_policy,
                    "time_limit_s": hook.time_limit_s,
                }
                for hook in self.hooks
            ],
            "allow_code": self.allow_code,
            "load_timeout_s": self.load_timeout_s,
            "predict_timeout_s": self.predict_timeout_s,
            "registry_url": self.registry_url,
        }
        return json.dumps(tree).encode()

    @classmethod
    def from_json(cls, data: bytes) -> CheckRequest:
        """Return the request that :meth:`to_json` wrote."""
        tree = json.loads(data)
        return cls(
            model=tree["model"],
            candidate=CheckSubject.from_tree(tree["candidate"]),
            active=None if tree["active"] is None else CheckSubject.from_tree(tree["active"]),
            hooks=[PlannedHook(**hook) for hook in tree["hooks"]],
            allow_code=tree["allow_code"],
            load_timeout_s=tree["load_timeout_s"],
            predict_timeout_s=tree["predict_timeout_s"],
            registry_url=tree["registry_url"],
        )
