"""Runs the hooks of a request in a child process, holds each to its time limit, and keeps every verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from clipperfs.checking.conversation import Conversation
from clipperfs.checking.copies import Fingerprint, changed_since, copy_problems, take_fingerprint
from clipperfs.checking.request import CheckRequest, CheckSubject
from clipperfs.documents import Verdict
from clipperfs.errors import ServingError

INTEGRITY = "integrity"
UNCHANGED = "unchanged"
"""The pseudo hook that refuses a candidate whose files were changed while the hooks ran."""


def run_hooks(request: CheckRequest) -> list[Verdict]:
    """Run all hooks of ``request`` in order and return all their verdicts in that order.

    Whatever a hook does, a verdict comes back for it: ``timeout`` when it takes longer than its limit (its processes
    are killed), ``error`` when it raises, dies or answers nonsense; the hooks after it then run in a new child. When
    the run has changed the files of the candidate or of the active version, a refusal by ``unchanged`` is added.

    Guarantees: blocking; no process that was started survives the call, also when it is interrupted or this process is
    killed. Call it from a thread that stays: the child dies with the thread that started it.

    Raises:
        ServingError: no child can be started here, or the copies cannot be read (then nothing has been judged).
    """
    try:
        return _run(request)
    except OSError as error:
        raise ServingError(
            f"the hooks of version {request.candidate.version} cannot be run on this host: {error}",
            hint="check its memory, its limits of processes and open files, and the room in its temporary folder",
        ) from error


def damaged_subjects(request: CheckRequest, verdicts: Sequence[Verdict]) -> list[CheckSubject]:
    """Return the versions whose copies the run has found, or left, unlike their manifests.

    Looks at the files again, but only where a verdict of ``integrity`` or ``unchanged`` gives cause.
    """
    if not any(verdict.is_refusal and verdict.hook in (INTEGRITY, UNCHANGED) for verdict in verdicts):
        return []
    subjects = [subject for subject in (request.candidate, request.active) if subject is not None]
    return [subject for subject in subjects if _is_damaged(subject)]


def _is_damaged(subject: CheckSubject) -> bool:
    try:
        return bool(copy_problems(subject.path, subject.manifest, subject.manifest_digest))
    except OSError:
        return True


def _run(request: CheckRequest) -> list[Verdict]:
    request = replace(
        request,
        candidate=_with_absolute_path(request.candidate),
        active=None if request.active is None else _with_absolute_path(request.active),
    )
    subjects = [subject for subject in (request.candidate, request.active) if subject is not None]
    look_again = [partial(_changes, subject, take_fingerprint(subject.path)) for subject in subjects]
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="clipperfs-check-", ignore_cleanup_errors=True) as folder:
        while len(verdicts) < len(request.hooks):
            rest = replace(request, hooks=request.hooks[len(verdicts) :])
            with Conversation(rest, folder) as conversation:
                verdicts += conversation.verdicts()
    for look in look_again:
        verdicts += look()
    return verdicts


def _with_absolute_path(subject: CheckSubject) -> CheckSubject:
    # The child works in a folder of its own, where a relative path would mean something else.
    return replace(subject, path=subject.path.absolute())


def _changes(subject: CheckSubject, before: Fingerprint) -> Iterator[Verdict]:
    try:
        problems = changed_since(before, subject.path, subject.manifest, subject.manifest_digest)
    except OSError as error:
        problems = [f"{error.filename or subject.path}: {error.strerror}"]
    if problems:
        shown = "; ".join(problems[:3]) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")
        yield Verdict(
            hook=UNCHANGED,
            outcome="refused",
            reason=f"A hook, or the wrapper, changed the private copy of version {subject.version} while the hooks "
            f"ran: {shown}."[:1000],
            next_step="let hooks and wrappers write to their temporary folder (TMPDIR), never to the version's files",
            measures={"changed_files": len(problems)},
        )
