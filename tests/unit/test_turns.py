"""Who may load now: bounded, in order, and what is urgent does not wait for what is slow."""

from __future__ import annotations

from clipperfs.serverd.turns import AT_LEAST, Turn, Turns, turns_at_once


class Room:
    """Turns, and the names of those whose turn has come, in order."""

    def __init__(self, at_once: int) -> None:
        self.turns = Turns(at_once)
        self.came: list[str] = []

    def ask(self, name: str, *, is_urgent: bool = False) -> Turn:
        return self.turns.ask(lambda turn: self.came.append(name), is_urgent=is_urgent)


def test_turns_beyond_the_bound_come_in_order_as_others_end() -> None:
    room = Room(2)
    turns = [room.ask(name) for name in "abcd"]
    assert room.came == ["a", "b"]
    assert [turn.is_here for turn in turns] == [True, True, False, False]
    turns[1].end()
    assert room.came == ["a", "b", "c"]
    turns[0].end()
    assert room.came == ["a", "b", "c", "d"]


def test_turn_that_ends_twice_makes_room_once() -> None:
    room = Room(1)
    first = room.ask("a")
    room.ask("b")
    room.ask("c")
    first.end()
    first.end()
    assert room.came == ["a", "b"]


def test_turn_that_ends_while_it_waits_never_comes() -> None:
    room = Room(1)
    first, second = room.ask("a"), room.ask("b")
    room.ask("c")
    second.end()
    first.end()
    assert room.came == ["a", "c"]


def test_urgent_turn_waits_for_no_other_load_but_for_urgent_ones() -> None:
    room = Room(1)
    room.ask("slow")
    room.ask("waits")
    urgent = room.ask("urgent", is_urgent=True)
    room.ask("urgent too", is_urgent=True)
    assert room.came == ["slow", "urgent"]
    urgent.end()
    assert room.came == ["slow", "urgent", "urgent too"]


def test_turn_that_ends_as_soon_as_it_comes_lets_the_next_one_in() -> None:
    turns, came = Turns(1), []

    def go(turn: Turn) -> None:
        came.append(turn)
        turn.end()

    asked = [turns.ask(go) for _ in range(3)]
    assert came == asked


def test_bound_follows_the_cores_but_lets_a_few_wait_for_a_disk() -> None:
    assert turns_at_once(1) == turns_at_once(2) == AT_LEAST
    assert turns_at_once(32) == 32
