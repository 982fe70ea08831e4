"""What a probe counts, and when it calls a filesystem exclusive. No I/O."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from clipperfs.documents import ProbeCheck, ProbeLatency
from clipperfs.errors import ClipperfsError
from clipperfs.probe.plan import Answer, ProbePlan

P = ParamSpec("P")
T = TypeVar("T")


class Tally:
    """Counts rounds, winners, faults, errors and times."""

    def __init__(self) -> None:
        self.rounds = 0
        self.winners: Counter[int] = Counter()
        """Number of writers who were told that they had won → rounds."""
        self.errors: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        """What readers saw that nobody may ever see → how often."""
        self.replaced = 0
        """Rounds after which the content was not that of the one who had won."""
        self.lost_answers = 0
        """Rounds that somebody won without being told."""
        self.empty = 0
        """Rounds after which nothing was there."""
        self.checks: list[ProbeCheck] = []
        self.is_exclusive = False
        """Whether the races for files, and every check that history rests on, ended as they must."""
        self._guards: list[bool] = []
        self._times_ms: defaultdict[str, list[float]] = defaultdict(list)

    def timed(self, call: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call and note how long it took, and the class of its error."""
        began_s = time.perf_counter()
        try:
            return function(*args, **kwargs)
        except ClipperfsError as error:
            self.errors[type(error).__name__] += 1
            raise
        finally:
            self._times_ms[call].append((time.perf_counter() - began_s) * 1000)

    def noted(self, call: str, answer: Answer) -> Answer:
        """Note a racer's time or error; return its answer."""
        self._times_ms[call].append(answer.duration_ms)
        if answer.outcome == "error":
            self.errors[answer.detail] += 1
        return answer

    def round_of_files(self, answers: list[Answer], author: str | None) -> None:
        """Note one round.

        Args:
            author: whose content lies under the name afterwards; empty for nobody's, ``None`` when nothing is there.
        """
        self.rounds += 1
        writers = [answer for answer in answers if answer.outcome in ("won", "lost", "error")]
        won = [answer.number for answer in writers if self.noted("contested create", answer).outcome == "won"]
        self.winners[len(won)] += 1
        for answer in answers:
            self.faults.update(answer.faults)
            if answer.seen is not None and author is not None and answer.seen != author:
                self.faults["changed"] += 1
        if author is None:
            self.empty += 1
        elif not won and author:
            self.lost_answers += 1
        elif str(won[0] if won else "") != author:
            self.replaced += 1

    def end_of_files(self, plan: ProbePlan) -> None:
        """Judge the races for files."""
        several = sum(count for number, count in self.winners.items() if number > 1)
        seen = ", ".join(f"{name} {count} times" for name, count in sorted(self.faults.items()))
        finding = "" if self.winners[1] else f"nobody won in {self.rounds} rounds"
        if several:
            most = f"more than one of {plan.writers} writers won, up to {max(self.winners)}"
            finding = f"in {several} of {self.rounds} rounds {most}"
        self.check("one winner", not finding, finding, guards_history=True)
        self.check(
            "the winner's content stays",
            not self.replaced,
            f"in {self.replaced} rounds other bytes lay under the name" if self.replaced else "",
            guards_history=True,
        )
        self.check("whole content", not seen, f"readers saw: {seen}" if seen else "", guards_history=True)
        self.check(
            "every round leaves a file", not self.empty, f"{self.empty} rounds left nothing" if self.empty else ""
        )
        told = f"{self.lost_answers} rounds were won without the winner being told; reading back finds it"
        self.check("answers", True, told if self.lost_answers else "")
        self.is_exclusive = all(self._guards)

    def check(self, name: str, has_passed: bool | None, detail: str = "", *, guards_history: bool = False) -> None:
        """Note what was looked at. ``None``: it was skipped."""
        outcome = "skipped" if has_passed is None else "passed" if has_passed else "failed"
        self.checks.append(ProbeCheck(name=name, outcome=outcome, detail=detail))
        if guards_history:
            self._guards.append(bool(has_passed))
            self.is_exclusive = self.is_exclusive and bool(has_passed)

    def latency(self) -> dict[str, ProbeLatency]:
        """Return the median and the 99th percentile of each call's times."""
        found = {}
        for call, times_ms in sorted(self._times_ms.items()):
            ordered = sorted(times_ms)
            found[call] = ProbeLatency(calls=len(ordered), p50_ms=_at(ordered, 0.5), p99_ms=_at(ordered, 0.99))
        return found


def _at(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
