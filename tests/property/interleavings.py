"""Explores every interleaving of processes that talk to one store, one store call a step, with faults in between.

A process's code is a function of the answers that it has got so far. So nothing runs in parallel here: to take a step,
the explorer carries out one pending call on a store, then runs that process's real code again from its beginning,
feeding it the answers it knows, until it asks something new. Two schedules after which every process has seen the same
and the store holds the same have the same future; they are explored once, and counted as two.

Source: P. Godefroid, "Model checking for programming languages using VeriSoft", POPL 1997 (search over real code, one
visible operation a step); the merging of equal states replaces its partial-order reduction and loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from clipperfs.errors import StorageUnavailable
from clipperfs.store import Entry
from clipperfs.store.memory import MemoryStore

Call = tuple[str, str, bytes]
"""Method, key, data."""

Files = tuple[tuple[str, bytes], ...]

Program = Callable[[Any, Callable[[Hashable], None]], None]
"""A process: works on the store that it is given, and tells what each of its operations came to. Deterministic."""

FAULT = "fault"
"""Stands for the answer of a call that failed."""


class _Pause(BaseException):
    """The process asks something that has not been answered: not an ``Exception``, so that nothing handles it."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.call = call


class _Script:
    """A store that gives known answers, then pauses."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers
        self.used = 0
        self.url = "memory://script"
        self.store_class = "memory"
        self.capabilities = MemoryStore.capabilities

    def read(self, key: str, *, limit_bytes: int) -> Any:
        return self._ask(("read", key, b""))

    def stat(self, key: str) -> Any:
        return self._ask(("stat", key, b""))

    def create(self, key: str, data: bytes) -> Any:
        return self._ask(("create", key, data))

    def replace(self, key: str, data: bytes) -> Any:
        return self._ask(("replace", key, data))

    def _ask(self, call: Call) -> Any:
        if self.used == len(self._answers):
            raise _Pause(call)
        answer = self._answers[self.used]
        self.used += 1
        if answer is FAULT:
            raise StorageUnavailable("injected fault")
        return answer


@dataclass(slots=True)
class Node:
    """What a process is about to do after it has seen certain answers."""

    answers: list[Any]
    call: Call | None = None
    """``None``: it has ended."""
    told: list[Hashable] = field(default_factory=list)
    begins: bool = True
    """Whether the pending call is the first of an operation."""
    children: dict[Hashable, int] = field(default_factory=dict)
    """By answer: the number of the node that follows."""


class Process:
    """One program, and the tree of all that it may come to see; nodes are known by their numbers."""

    def __init__(self, name: str, program: Program) -> None:
        self.name = name
        self._program = program
        self.nodes: list[Node] = [self._run([])]

    def after(self, number: int, answer: Any) -> int:
        """Return where the process is when its pending call has been answered."""
        node = self.nodes[number]
        child = node.children.get(answer)
        if child is None:
            self.nodes.append(self._run([*node.answers, answer]))
            child = node.children[answer] = len(self.nodes) - 1
        return child

    def _run(self, answers: list[Any]) -> Node:
        script = _Script(answers)
        node = Node(answers)
        used_before_last = 0

        def tell(what: Hashable) -> None:
            nonlocal used_before_last
            node.told.append(what)
            used_before_last = script.used

        try:
            self._program(script, tell)
        except _Pause as pause:
            node.call = pause.call
            node.begins = script.used == used_before_last
        return node


State = tuple[int, tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]
"""One moment, all by numbers: what the store holds; at which node each process is; by process, how much was in the log
when its present operation began; how many faults may still come; which calls were given up but are still on their way,
and may take effect at any time, or never."""

Step = tuple[int, int, int, int, str | None]
"""What a process's next call may come to: the store's content, its node, faults used, a call that is still on its way
(or -1), and what it was told, as text for messages (``None``: its operation goes on)."""


@dataclass(slots=True)
class Explored:
    """What an exploration came to."""

    schedules: int = 0
    """Complete ones; those that end in a crash are their beginnings. With ``commutes``: one of each class of schedules
    that differ in the order of such calls only; with ``alike``: one of those that differ in names only."""
    states: int = 0
    steps: int = 0
    stores: int = 0
    runs: int = 0
    """How often real code was run."""
    bad: list[str] = field(default_factory=list)


def _never(call: Call, files: Files) -> bool:
    return False


@dataclass(slots=True)
class Question:
    """What to explore, and what must hold.

    Attributes:
        measure: how much is in the log, for the check of real time.
        check_told: what a process was told, against the store at any later moment; returns what is wrong.
        check_return: one operation's outcome, how much was in the log when it began, and the store as it ends.
        check_files: the store at any moment, with nobody running any more.
        may_fail: whether a fault may meet a call.
        faults: so many calls meet one: an error, an answer that is lost, or an error before a late effect.
        commutes: whether nothing that others may ever do changes the answer of a call, nor does it change theirs; such
            calls are carried out at once.
        alike: processes that differ in name only: they begin in this order.
    """

    programs: dict[str, Program]
    measure: Callable[[Files], int]
    check_told: Callable[[str, Any, Files], str | None]
    check_return: Callable[[str, Any, int, Files], str | None]
    check_files: Callable[[Files], str | None]
    may_fail: Callable[[Call], bool]
    faults: int = 0
    commutes: Callable[[Call, Files], bool] = _never
    alike: tuple[str, ...] = ()


class Explorer:
    """Explores everything that a question leaves open."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._processes = [Process(name, program) for name, program in question.programs.items()]
        self._before = [
            list(question.programs).index(question.alike[question.alike.index(name) - 1])
            if name in question.alike[1:]
            else -1
            for name in question.programs
        ]
        self._stores: list[Files] = []
        self._numbers: dict[Files, int] = {}
        self._sizes: list[int] = []
        self._late: list[Call] = []
        self._carried_out: dict[tuple[int, Call], tuple[int, Any]] = {}
        self._steps: list[dict[tuple[int, int], list[Step]]] = [{} for _ in self._processes]
        self._landed: dict[tuple[int, int], int] = {}
        self._told: set[tuple[int, int, int]] = set()
        self.found = Explored()

    def run(self, limit: int) -> Explored:
        """Explore in layers: every step makes exactly one call, so equal states are equally deep."""
        count = len(self._processes)
        first: State = (self._number(()), (0,) * count, (0,) * count, self._question.faults, ())
        layer: dict[State, int] = {first: 1}
        found = self.found
        while layer and not found.bad:
            following: dict[State, int] = {}
            for state, ways in layer.items():
                self._check(state)
                is_over = True
                for after in self._successors(state):
                    found.steps += 1
                    is_over = is_over and after[1] == state[1]
                    following[after] = following.get(after, 0) + ways
                found.schedules += ways if is_over else 0
                if found.bad:
                    break
            found.states += len(layer)
            assert found.states < limit, f"more than {limit} states"
            layer = following
        found.stores = len(self._stores)
        found.runs = sum(len(process.nodes) for process in self._processes)
        return found

    def _check(self, state: State) -> None:
        files, nodes = state[0], state[1]
        for index, number in enumerate(nodes):
            key = (files, index, number)
            if key in self._told:
                continue
            self._told.add(key)
            for told in self._processes[index].nodes[number].told:
                self._blame(self._question.check_told(self._processes[index].name, told, self._stores[files]), state)

    def _successors(self, state: State) -> Iterator[State]:
        files, nodes, begun, faults, late = state
        first = next((index for index in range(len(nodes)) if self._is_at_once(files, index, nodes[index])), None)
        if first is None:
            for position, number in enumerate(late):
                yield self._land(files, number), nodes, begun, faults, late[:position] + late[position + 1 :]
        for index in range(len(nodes)) if first is None else (first,):
            node = self._processes[index].nodes[nodes[index]]
            if node.call is None or (self._before[index] >= 0 and nodes[index] == 0 and not nodes[self._before[index]]):
                continue
            since = self._sizes[files] if node.begins else begun[index]
            for after, child, cost, given_up, told in self._next(files, index, nodes[index]):
                if cost > faults:
                    continue
                beginnings = (*begun[:index], 0 if told else since, *begun[index + 1 :])
                children = (*nodes[:index], child, *nodes[index + 1 :])
                waiting = tuple(sorted((*late, given_up))) if given_up >= 0 else late
                following: State = (after, children, beginnings, faults - cost, waiting)
                if told:
                    process = self._processes[index]
                    check = self._question.check_return
                    last = process.nodes[child].told[-1]
                    self._blame(check(process.name, last, since, self._stores[after]), following)
                yield following

    def _is_at_once(self, files: int, index: int, number: int) -> bool:
        node = self._processes[index].nodes[number]
        return node.call is not None and not node.begins and self._question.commutes(node.call, self._stores[files])

    def _next(self, files: int, index: int, number: int) -> list[Step]:
        known = self._steps[index].get((files, number))
        if known is not None:
            return known
        process = self._processes[index]
        node = process.nodes[number]
        assert node.call is not None
        after, answer = self._carry_out(files, node.call)
        outcomes = [(after, answer, 0, -1)]
        if self._question.faults and self._question.may_fail(node.call):
            outcomes.append((files, FAULT, 1, -1))
            if after != files:
                outcomes.append((after, FAULT, 1, -1))
            if node.call[0] == "create":
                self._late.append(node.call)
                outcomes.append((files, FAULT, 1, len(self._late) - 1))
        steps: list[Step] = []
        for after, answer, cost, given_up in outcomes:
            child = process.after(number, answer)
            told = process.nodes[child].told
            steps.append((after, child, cost, given_up, str(told[-1]) if len(told) > len(node.told) else None))
        self._steps[index][files, number] = steps
        return steps

    def _land(self, files: int, number: int) -> int:
        return self._carry_out(files, self._late[number])[0]

    def _carry_out(self, files: int, call: Call) -> tuple[int, Any]:
        """Carry out one call on a memory store; return what it holds then, and the answer."""
        known = self._carried_out.get((files, call))
        if known is not None:
            return known
        method, key, data = call
        store = memory_store_of(self._stores[files])
        answer: Any
        if method == "read":
            answer = store.read(key, limit_bytes=1 << 20)
        elif method == "stat":
            answer = store.stat(key)
        elif method == "create":
            answer = store.create(key, data)
        else:
            store.replace(key, data)
            answer = None
        result = self._number(tuple(sorted((name, found[0]) for name, found in store._files.items()))), answer
        self._carried_out[files, call] = result
        return result

    def _number(self, files: Files) -> int:
        number = self._numbers.get(files)
        if number is None:
            number = self._numbers[files] = len(self._stores)
            self._stores.append(files)
            self._sizes.append(self._question.measure(files))
            self._blame(self._question.check_files(files), None)
        return number

    def _blame(self, wrong: str | None, state: State | None) -> None:
        if wrong is not None:
            self.found.bad.append(wrong if state is None else self._story(wrong, state))

    def _story(self, wrong: str, state: State) -> str:
        """Return what is wrong and what every process saw on the way there."""
        lines = [wrong]
        for index, process in enumerate(self._processes):
            node = process.nodes[state[1][index]]
            asked = process.nodes[0]
            lines.append(f"  {process.name} told {node.told}")
            for answer in node.answers:
                assert asked.call is not None
                lines.append(f"    {asked.call[0]} {asked.call[1]} -> {_short(answer)}")
                asked = process.nodes[asked.children[answer]]
            lines.append("    (ended)" if node.call is None else f"    {node.call[0]} {node.call[1]} is next")
        files = [name for name, _ in self._stores[state[0]]]
        lines.append(f"  files: {files}; on their way: {[self._late[number][1] for number in state[4]]}")
        return "\n".join(lines)


def explore(question: Question, *, limit: int = 50_000_000) -> Explored:
    """Explore everything, until something is wrong. Raises AssertionError beyond ``limit`` states."""
    return Explorer(question).run(limit)


def memory_store_of(files: Files) -> MemoryStore:
    """Return a memory store that holds these files; their times and tokens are all the same."""
    store = MemoryStore("step")
    store._files = {name: (data, 0, 0.0, False) for name, data in files}
    return store


def _short(answer: Any) -> str:
    if isinstance(answer, bytes):
        return f"{len(answer)} bytes"
    return answer.kind if isinstance(answer, Entry) else repr(answer)
