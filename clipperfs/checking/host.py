"""The child that runs hooks: ``python -P -m clipperfs.checking.host FD PARENT`` with a request on standard input."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from clipperfs.checking.plan import TIMEOUT_OPTION
from clipperfs.checking.predictor import Role, SessionPredictor
from clipperfs.checking.process import STACKS_SIGNAL, adopt_orphans, die_with_parent, leave_no_core
from clipperfs.checking.protocol import GO, bounded_verdict, write_line
from clipperfs.checking.request import CheckRequest, CheckSubject, PlannedHook
from clipperfs.documents import Verdict
from clipperfs.errors import ClipperfsError, InvalidSetting
from clipperfs.hook import HookContext, Subject
from clipperfs.plugins import load_plugin

Send = Callable[..., None]


def main(arguments: list[str]) -> None:
    """Run the hooks of the request, tell the parent of each, then wait for it to kill this process."""
    protocol_fd, parent_pid = int(arguments[0]), int(arguments[1])
    die_with_parent(parent_pid)
    adopt_orphans()
    leave_no_core()
    os.set_inheritable(protocol_fd, False)
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True, chain=False)
    request = CheckRequest.from_json(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.stdin.fileno())
    os.close(null)

    def send(event: str, **fields: Any) -> None:
        data = write_line(event, **fields)
        while data:
            data = data[os.write(protocol_fd, data) :]

    def await_go() -> None:
        if os.read(protocol_fd, len(GO)) != GO:
            raise SystemExit("the parent has gone")

    run_all(request, send, await_go)
    send("end")
    while True:  # only the parent, while this process lives, can find and kill what the hooks left running
        signal.pause()


def run_all(request: CheckRequest, send: Send, await_go: Callable[[], None]) -> None:
    """Run each hook of ``request`` in its order, when told to go, and send its verdict."""
    predictors: list[SessionPredictor] = []

    def tell(event: str, role: Role) -> None:
        send(event, subject=role)

    def subject(role: Role, about: CheckSubject) -> Subject:
        predictors.append(SessionPredictor(role, about, request, tell))
        return Subject(
            model=request.model,
            version=about.version,
            manifest_digest=about.manifest_digest,
            manifest=about.manifest,
            settings=about.settings,
            path=about.path,
            predictor=predictors[-1],
        )

    candidate = subject("candidate", request.candidate)
    active = None if request.active is None else subject("active", request.active)
    try:
        for index, hook in enumerate(request.hooks):
            context = HookContext(
                candidate=candidate,
                active=active,
                time_limit_s=hook.time_limit_s,
                allow_code=request.allow_code,
                from_policy=hook.from_policy,
                registry_url=request.registry_url,
            )
            send("begin", index=index)
            await_go()
            verdict = bounded_verdict(check(hook, context), hook.name)
            sys.stdout.flush()
            sys.stderr.flush()
            send("verdict", index=index, verdict=verdict)
    finally:
        for predictor in predictors:
            predictor.close()


def check(hook: PlannedHook, context: HookContext) -> Verdict:
    """Return what one hook says, or the verdict ``error`` when it raises or returns something else.

    Exceptions that are not clipperfs' own are printed with their stack, which ends up in the verdict's ``output``.
    """
    try:
        if TIMEOUT_OPTION in hook.options:  # plan_hooks takes out the ones that it can use
            raise InvalidSetting(
                f"hook {hook.name}: option {TIMEOUT_OPTION} must be a number of seconds above 0 and up to 86400, "
                f"not {hook.options[TIMEOUT_OPTION]!r:.100}"
            )
        verdict = load_plugin("clipperfs.hooks", hook.name)(hook.options).check(context)
    except InvalidSetting as error:
        return _error(hook, error.message, error.hint or "mend the options in model.yaml or in the policy")
    except ClipperfsError as error:
        subject = context.candidate
        again = f"mend what the reason names; then: clipperfs hook run {subject.model} {subject.version}"
        return _error(hook, f"The check could not be carried out: {error.message}", error.hint or again)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _error(hook, f"The hook itself failed with {text}", "mend the hook; its stack is in the output")
    if not isinstance(verdict, Verdict):
        return _error(
            hook,
            f"The hook returned {type(verdict).__name__} instead of a Verdict",
            "return a clipperfs.documents.Verdict",
        )
    return verdict


def _error(hook: PlannedHook, reason: str, next_step: str | None) -> Verdict:
    return Verdict(hook=hook.name, outcome="error", reason=reason, next_step=next_step)


if __name__ == "__main__":
    main(sys.argv[1:])
