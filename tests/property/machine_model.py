"""The plain model beside a real registry: what each kind of record makes of a model's state."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from clipperfs.documents import ModelRecord, ModelState, Pointer


@dataclass(slots=True)
class Plain:
    """A model's state as plain values: versions by name, a mark by version, the policy as a mapping."""

    active: str | None = None
    previous: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    pins: list[str] = field(default_factory=list)
    retired: dict[str, str] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)

    def after(self, record: ModelRecord) -> Plain:
        """Return the state that a record of this kind makes of this one, by what the record says it did."""
        new = copy.deepcopy(self)
        evidence = record.evidence.model_dump()
        version = evidence["version"]
        points = record.op in ("activate", "rollback", "alias") or (record.op == "pin" and not evidence["remove"])
        if points and version is not None:
            assert version not in self.retired, f"{record.op} of a version that is {self.retired[version]}"
        if record.op in ("retire", "delete"):
            assert version not in self.uses(), f"{record.op} of a version that is in use"
        if record.op in ("purge", "purged"):
            stage = {"purge": "deleted", "purged": "purging"}[record.op]
            assert self.retired.get(version) == stage, f"{record.op} of a version that is not {stage}"
        if record.op == "restore":
            assert self.retired.get(version) != "purging", "restored while its payload went"
        match record.op:
            case "publish" | "adopt" | "foreign":
                pass
            case "activate" | "rollback":
                new.active, new.previous = version, self.active
            case "alias" if version is None:
                del new.aliases[evidence["alias"]]
            case "alias":
                new.aliases[evidence["alias"]] = version
            case "pin":
                new.pins = [one for one in self.pins if one != version]
                new.pins += [] if evidence["remove"] else [version]
            case "policy":
                new.policy |= evidence["changes"]
            case "retire":
                new.retired[version] = "retired"
            case "delete":
                new.retired[version] = "deleted"
            case "purge":
                new.retired[version] = "purging"
            case "restore" | "purged":
                del new.retired[version]
            case unknown:
                raise AssertionError(f"no verb of the machine writes {unknown}")
        return new

    def uses(self) -> set[str | None]:
        """Return the versions that somebody may ask for."""
        return {self.active, self.previous, *self.aliases.values(), *self.pins}

    def differs_from(self, state: ModelState) -> str | None:
        """Say what differs from a stored state; ``None`` when nothing does."""
        found = Plain(
            active=_version(state.active),
            previous=_version(state.previous),
            aliases={name: pointer.version for name, pointer in state.aliases.items()},
            pins=[pointer.version for pointer in state.pins],
            retired={version: mark.stage for version, mark in state.retired.items()},
            policy={name: getattr(state.policy, name) for name in self.policy},
        )
        return None if found == self else f"the record carries {found}, the model says {self}"


def _version(pointer: Pointer | None) -> str | None:
    return pointer.version if pointer is not None else None
