"""Whom to trust, and the gate that a version passes before it is activated, named, pinned or loaded. Fails closed.

The keys come from the model's policy, or from a file on this host: the file wins, and then a signature is required
whatever the policy says, so that whoever may write the log cannot lower the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipperfs.digest import Digest
from clipperfs.documents import ModelState, Pointer, Verdict
from clipperfs.documents.signature import SignedPolicy
from clipperfs.errors import ActivationRefused, InvalidSetting
from clipperfs.names import ModelName, VersionName, version_name
from clipperfs.signing.key import PublicKey, parse_publishers
from clipperfs.signing.version import Claim, find_publisher
from clipperfs.workspace import Workspace

VERDICT = "publisher"
"""The name of the verdict about signatures. (The hook ``signature`` is about inputs and outputs.)"""


@dataclass(frozen=True, slots=True)
class Trust:
    """Keys by publisher's name, and who said so."""

    keys: Mapping[str, PublicKey]
    origin: str


def required_trust(workspace: Workspace, policy: SignedPolicy) -> Trust | None:
    """Return whose signature a version of a model needs; ``None``: it needs none."""
    if workspace.trusted_keys is not None:
        return Trust(parse_publishers(workspace.trusted_keys), "the trusted keys of this host")
    if policy.require_signature:
        return Trust(parse_publishers(policy.publishers), "the policy's publishers")
    return None


def known_keys(workspace: Workspace, policy: SignedPolicy) -> dict[str, PublicKey]:
    """Return every key that has a name here: the host's, and the policy's beside them."""
    return parse_publishers({**policy.publishers, **(workspace.trusted_keys or {})})


def judge_publisher(
    workspace: Workspace, model: ModelName, version: VersionName, manifest: Digest, policy: SignedPolicy
) -> Verdict | None:
    """Return the verdict about a version's publisher; ``None`` when no signature is required.

    Raises StorageError when the registry must be asked and does not answer.
    """
    trust = required_trust(workspace, policy)
    if trust is None:
        return None
    try:
        found = find_publisher(workspace, trust.keys, Claim(workspace.registry_id, model, version, manifest))
    except InvalidSetting as error:
        return Verdict(hook=VERDICT, outcome="error", reason=error.message, next_step=error.hint)
    if found.publisher is not None:
        return Verdict(hook=VERDICT, outcome="passed", reason=f"signed by {found.publisher}")
    why = "; ".join(found.problems) or "nobody of them has signed it"
    return Verdict(
        hook=VERDICT,
        outcome="refused",
        reason=f"it needs a signature by one of {trust.origin} ({', '.join(sorted(trust.keys)) or 'none'}): {why}"[
            :900
        ],
        next_step=f"let one of them run 'clipperfs sign {model} {version} --key FILE'",
    )


def require_publisher(
    workspace: Workspace, model: ModelName, version: VersionName, manifest: Digest, policy: SignedPolicy
) -> None:
    """Let a version pass that needs no signature or has one. Raises ActivationRefused, StorageError."""
    verdict = judge_publisher(workspace, model, version, manifest, policy)
    if verdict is not None and verdict.is_refusal:
        raise ActivationRefused(
            f"version {version} of model {model} was refused by {VERDICT}: {verdict.reason}",
            hint=verdict.next_step,
            model=model,
            version=version,
            verdicts=[verdict.model_dump(mode="json")],
        )


def note_unsigned(workspace: Workspace, model: ModelName, state: ModelState) -> None:
    """Tell whoever tightens a policy which versions in use have no signature that counts: none loads them again."""
    named: list[Pointer | None] = [state.active, state.previous, *state.aliases.values(), *state.pins]
    pointers = {pointer.version: pointer for pointer in named if pointer is not None}
    for version, pointer in sorted(pointers.items()):
        verdict = judge_publisher(workspace, model, version_name(version), Digest(pointer.manifest), state.policy)
        if verdict is not None and verdict.is_refusal:
            workspace.reporter.note(
                f"note: version {version} is in use without a signature that counts: daemons that have it loaded go "
                f"on, but none loads it again before 'clipperfs sign {model} {version} --key FILE'"
            )
