"""``command``: any executable; JSON on its standard input, its exit status is the verdict."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from clipperfs.checking.options import Options, parse_options
from clipperfs.documents import Verdict
from clipperfs.documents.base import validation_summary
from clipperfs.errors import InvalidSetting
from clipperfs.hook import HookContext, Subject
from clipperfs.replica.process import exit_reason

from .program import MAX_STDOUT_BYTES, Ended, command_line, run_program


class CommandOptions(Options):
    """Options of ``command``."""

    argv: list[str] = Field(min_length=1)
    """The program and its arguments. A relative path lies in the version; a bare name is looked up in PATH."""


class Answer(Options):
    """What a command may write to standard output."""

    reason: str | None = None
    measures: dict[str, Any] = {}
    next_step: str | None = None


class Command:
    """Runs an executable in the candidate's copy; exit status 0 passes, any other refuses, like a hook of git."""

    name = "command"

    def __init__(self, options: Mapping[str, Any]) -> None:
        if options.keys() == {"value"}:  # command: [./check.sh, --strict]
            options = {"argv": options["value"]}
        self.options = parse_options(CommandOptions, self.name, options)
        if not self.options.argv[0] or any("\0" in argument for argument in self.options.argv):
            raise InvalidSetting("hook command: option argv: the program's name is empty, or an argument holds NUL")

    def check(self, context: HookContext) -> Verdict:
        """Run the command and read its verdict."""
        shown = " ".join(self.options.argv)[:200]
        program = self._find(context.candidate.path)
        if not context.allow_code and (not context.from_policy or _is_inside(program, context.candidate.path)):
            return self._verdict(
                "refused",
                f"The version brings the command {shown!r}, but the model's policy does not let versions run code.",
                f"read the command; then: clipperfs policy {context.candidate.model} allow_code=true",
            )
        try:
            ended = run_program(
                command_line(program, self.options.argv[1:]),
                json.dumps(request_of(context)).encode(),
                folder=context.candidate.path,
                environment=os.environ
                | {
                    "CLIPPERFS_REGISTRY": context.registry_url,
                    "CLIPPERFS_MODEL": context.candidate.model,
                    "CLIPPERFS_VERSION": context.candidate.version,
                },
            )
        except OSError as error:
            return self._verdict(
                "error",
                f"The command {shown!r} cannot be run: {error.strerror}.",
                f"make sure that {program} exists, begins with '#!' and an interpreter that exists, or is executable "
                "(chmod +x before 'clipperfs publish' or 'clipperfs manifest'; a plain copy to a bucket loses that)",
            )
        return self._judge(ended, shown)

    def _find(self, folder: Path) -> Path:
        """Return the program's absolute path; one that does not exist fails when it is run."""
        name = self.options.argv[0]
        if "/" in name:
            return folder / name
        found = shutil.which(name)
        if found is None:
            raise InvalidSetting(
                f"hook command: no program is called {name!r} in PATH",
                hint=f"install it on the hosts that activate, or write ./{name} for a file of the version",
            )
        return Path(found)

    def _judge(self, ended: Ended, shown: str) -> Verdict:
        text = ended.stdout.decode("utf-8", "replace").strip()
        complaint = ended.stderr.decode("utf-8", "replace").strip()[-600:]
        measures = {"exit_status": ended.status}
        if ended.is_flood:
            return self._verdict(
                "error",
                f"The command {shown!r} wrote more than {MAX_STDOUT_BYTES} bytes to standard output.",
                "write the answer to standard output and everything else to a file in TMPDIR",
                measures,
            )
        if ended.status < 0:
            return self._verdict(
                "error",
                f"The command {shown!r} {exit_reason(ended.status)}. {complaint}".strip(),
                "find out what killed it; it gave no verdict",
                measures,
            )
        try:
            answer = _answer(text)
        except ValidationError as error:
            return self._verdict(
                "error",
                f"The command {shown!r} wrote an answer that cannot be used: {validation_summary(error)}.",
                'write {"reason": text, "measures": {…}, "next_step": text}, each of them optional, or plain text',
                measures,
            )
        measures = {**answer.measures, **measures}
        if ended.status == 0:
            reason = answer.reason or f"The command {shown!r} passed it."
            return self._verdict("passed", reason, answer.next_step, measures)
        said = answer.reason or complaint
        reason = f"The command {shown!r} refused it with exit status {ended.status}" + (f": {said}" if said else ".")
        next_step = answer.next_step or "mend what the command complains about; its code says what it wants"
        return self._verdict("refused", reason, next_step, measures)

    def _verdict(
        self, outcome: str, reason: str, next_step: str | None, measures: Mapping[str, Any] | None = None
    ) -> Verdict:
        return Verdict.model_validate(
            {
                "hook": self.name,
                "outcome": outcome,
                "reason": reason,
                "next_step": next_step,
                "measures": dict(measures or {}),
            }
        )


def request_of(context: HookContext) -> dict[str, Any]:
    """Return what a command reads from standard input."""
    return {
        "schema": "clipperfs.command.v1",
        "registry": context.registry_url,
        "model": context.candidate.model,
        "candidate": _subject(context.candidate),
        "active": None if context.active is None else _subject(context.active),
        "time_limit_s": context.time_limit_s,
        "from_policy": context.from_policy,
    }


def _subject(subject: Subject) -> dict[str, Any]:
    return {
        "version": subject.version,
        "manifest_digest": subject.manifest_digest,
        "path": str(subject.path),
        "settings": subject.settings.model_dump(mode="json"),
        "files": [entry.model_dump(mode="json") for entry in subject.manifest.files],
    }


def _answer(text: str) -> Answer:
    """Parse standard output: an object is an answer, anything else is the reason. Raises ValidationError."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        tree = None
    if isinstance(tree, dict):
        return Answer.model_validate(tree)
    return Answer(reason=text or None)


def _is_inside(program: Path, folder: Path) -> bool:
    """Say whether the program is one of the version's own files, links resolved."""
    return Path(os.path.realpath(program)).is_relative_to(os.path.realpath(folder))
