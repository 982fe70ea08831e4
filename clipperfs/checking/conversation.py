"""The parent's side of one child that runs hooks: it listens, keeps the time, and turns every ending into verdicts."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from typing import Any, Literal, Self, TypeAlias

from clipperfs.checking.process import STACKS_SIGNAL, kill_tree, start_child
from clipperfs.checking.protocol import (
    GO,
    MAX_LINE_BYTES,
    MAX_OUTPUT_BYTES,
    SUBJECTS,
    ProtocolError,
    printed_text,
    read_line,
    read_verdict,
)
from clipperfs.checking.request import CheckRequest, PlannedHook
from clipperfs.documents import Verdict
from clipperfs.replica.process import exit_reason

HOST_MODULE = "clipperfs.checking.host"
BETWEEN_LIMIT_S = 60.0
"""How long the child may take to start, and from one hook to the next."""
LOAD_GRACE_S = 5.0
"""How much later than the child itself the parent decides that a wrapper takes too long to load."""
STACKS_WAIT_S = 0.3

_READ_BYTES = 1 << 18

Ending: TypeAlias = Literal["done", "timeout", "nonsense", "gone"]


class Conversation:
    """One child and what it says. A context manager: leaving it kills the child and everything below it."""

    def __init__(self, request: CheckRequest, folder: str) -> None:
        self._request = request
        self._verdicts: list[Verdict] = []
        self._begun: float | None = None
        """When the hook that is running began; ``None`` between hooks."""
        self._loading_since: float | None = None
        self._loaded_subjects: set[str] = set()
        self._deadline = time.monotonic() + BETWEEN_LIMIT_S
        self._hook_deadline = self._deadline
        self._lines = bytearray()
        self._output = bytearray()
        self._has_said_all = False
        self._problem = ""
        self._protocol, protocol_fd = (end.detach() for end in socket.socketpair())
        self._prints, output_fd = os.pipe()
        try:
            self._process = start_child(
                HOST_MODULE, request.to_json(), protocol_fd=protocol_fd, output_fd=output_fd, folder=folder
            )
        except BaseException:
            os.close(self._protocol)
            os.close(self._prints)
            raise
        finally:
            os.close(protocol_fd)
            os.close(output_fd)
        os.set_blocking(self._protocol, False)
        os.set_blocking(self._prints, False)
        self._pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        kill_tree(self._process)
        for descriptor in (self._protocol, self._prints, self._pidfd):
            if descriptor >= 0:
                os.close(descriptor)

    def verdicts(self) -> list[Verdict]:
        """Listen until the child has ended, has said all, or must be given up; return at least one verdict.

        The verdicts are those of the first hooks of the request; when there are fewer than hooks, another child has to
        run the rest.
        """
        ending = self._listen()
        if ending == "done":
            return self._verdicts
        if ending == "timeout":
            self._collect_stacks()
        status = kill_tree(self._process)
        self._read_prints()
        if self._begun is not None:
            return [*self._verdicts, self._broken(ending, status)]
        return self._verdicts or self._never_ran(ending, status)

    def _listen(self) -> Ending:
        self._pidfd = os.pidfd_open(self._process.pid)
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._protocol, self._prints, self._pidfd):
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                left_s = self._deadline - time.monotonic()
                if left_s <= 0:
                    return "timeout"
                ready = {key.fd for key, _ in selector.select(left_s)}
                if self._prints in ready and not self._read_prints():
                    selector.unregister(self._prints)
                try:
                    if self._protocol in ready and not self._read_protocol():
                        selector.unregister(self._protocol)
                except ProtocolError as error:
                    self._problem = str(error)
                    return "nonsense"
                if self._has_said_all:
                    return "done"
                if self._pidfd in ready:
                    return "gone"

    def _read_protocol(self) -> bool:
        """Take in what the child has said; return ``False`` when every copy of the other end is closed."""
        while True:
            try:
                data = os.read(self._protocol, _READ_BYTES)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not data:
                return False
            self._lines += data
            while (end := self._lines.find(b"\n")) >= 0:
                line = bytes(self._lines[:end])
                del self._lines[: end + 1]
                self._take(read_line(line))
            if len(self._lines) > MAX_LINE_BYTES:
                raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")

    def _read_prints(self) -> bool:
        """Take in what was printed, keeping its end; return ``False`` when nobody can print any more."""
        try:
            data = os.read(self._prints, _READ_BYTES)
        except BlockingIOError:
            return True
        self._output += data
        del self._output[:-MAX_OUTPUT_BYTES]
        return bool(data)

    def _take(self, line: dict[str, Any]) -> None:
        now = time.monotonic()
        match line["event"], self._begun:
            case "begin", None if line.get("index") == len(self._verdicts) < len(self._request.hooks):
                self._read_prints()
                self._output.clear()
                self._begun = now
                self._hook_deadline = self._deadline = now + self._hook.time_limit_s
                with contextlib.suppress(OSError):  # the child has just died: its pidfd tells
                    os.write(self._protocol, GO)
            case "loading", float() if self._loading_since is None and self._is_first_load(line.get("subject")):
                self._loading_since = now
                self._deadline = now + self._request.load_timeout_s + LOAD_GRACE_S
            case "loaded", float() if self._loading_since is not None:
                self._hook_deadline += now - self._loading_since
                self._loading_since, self._deadline = None, self._hook_deadline
            case "verdict", float(begun) if line.get("index") == len(self._verdicts):
                verdict = read_verdict(line.get("verdict"), self._hook.name)
                self._begun = self._loading_since = None
                self._deadline = now + BETWEEN_LIMIT_S
                self._verdicts.append(self._with_output(verdict, (now - begun) * 1000))
            case "end", None if len(self._verdicts) == len(self._request.hooks):
                self._has_said_all = True
            case _:
                raise ProtocolError(f"the event {line['event']!r} out of its turn")

    @property
    def _hook(self) -> PlannedHook:
        return self._request.hooks[len(self._verdicts)]

    @property
    def _again(self) -> str:
        return f"clipperfs hook run {self._request.model} {self._request.candidate.version}"

    def _is_first_load(self, subject: object) -> bool:
        # A hook's clock stands still once for each version: a check cannot gain time by saying so again.
        if subject not in SUBJECTS or subject in self._loaded_subjects:
            return False
        self._loaded_subjects.add(str(subject))
        return True

    def _with_output(self, verdict: Verdict, duration_ms: float) -> Verdict:
        update: dict[str, Any] = {"duration_ms": round(duration_ms, 3)}
        if verdict.outcome in ("error", "timeout"):
            self._read_prints()
            if text := printed_text(bytes(self._output)):
                update["measures"] = {**verdict.measures, "output": text}
        return verdict.model_copy(update=update)

    def _collect_stacks(self) -> None:
        """Ask the child where it hangs; the answer is part of its output."""
        try:
            signal.pidfd_send_signal(self._pidfd, STACKS_SIGNAL)
        except ProcessLookupError:
            return
        give_up = time.monotonic() + STACKS_WAIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._prints, selectors.EVENT_READ)
            while (left_s := give_up - time.monotonic()) > 0 and selector.select(left_s):
                if not self._read_prints():
                    return

    def _broken(self, ending: Ending, status: int) -> Verdict:
        """Return the verdict about the hook that was running when the child was given up."""
        assert self._begun is not None
        hook, duration_ms = self._hook, (time.monotonic() - self._begun) * 1000
        if ending == "timeout" and self._loading_since is not None:
            outcome, reason = "timeout", f"A wrapper took longer than {self._request.load_timeout_s:g} s to load."
            next_step = f"clipperfs policy {self._request.model} load_timeout_s=SECONDS"
        elif ending == "timeout":
            outcome, reason = "timeout", f"No verdict within the limit of {hook.time_limit_s:g} s; it was killed."
            next_step = (
                f"find out why it hangs, or give it longer: 'timeout_s' among its options, or clipperfs policy "
                f"{self._request.model} hook_timeout_s=SECONDS"
            )
        elif ending == "nonsense":
            outcome, reason = "error", f"What came out of the check's process is not a verdict: {self._problem}."[:1000]
            next_step = "look at the hook's code: it must leave the file descriptors alone that it did not open"
        else:
            outcome, reason = "error", f"The check's process {exit_reason(status)} before it gave a verdict."
            next_step = f"what it printed is in the report of this run; to run it again: {self._again}"
        verdict = Verdict.model_validate(
            {"hook": hook.name, "outcome": outcome, "reason": reason, "next_step": next_step}
        )
        return self._with_output(verdict, duration_ms)

    def _never_ran(self, ending: Ending, status: int) -> list[Verdict]:
        """Return the verdicts when no hook ever began: another child would fail in the same way."""
        how = {
            "timeout": f"did not get to it within {BETWEEN_LIMIT_S:g} s",
            "nonsense": f"said something that is not a verdict: {self._problem}",
        }.get(ending, exit_reason(status))
        output = printed_text(bytes(self._output))
        return [
            Verdict(
                hook=hook.name,
                outcome="error",
                reason=f"The check could not be started: its process {how}."[:1000],
                next_step=f"look at the output; to run the hooks again: {self._again}",
                measures={"output": output} if output else {},
            )
            for hook in self._request.hooks
        ]
