"""What decides a hand-over: which sockets are whose, what would be lost, and who writes in the state folder."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from clipperfs.serverd import descriptors
from clipperfs.serverd.hand_over import find_loss
from clipperfs.serverd.listening import bind_more, bind_query_port, close_sockets, share_out
from clipperfs.serverd.runtime_folder import RuntimeFolder
from clipperfs.serverd.settings import DaemonSettings
from clipperfs.serverd.statedir import StateDir
from clipperfs.serverd.take_over import ask
from hypothesis import given
from hypothesis import strategies as st

from clipperfs import daemon_restart
from clipperfs.admin import AdminClient
from clipperfs.daemon_files import DaemonDocument, is_locked
from clipperfs.errors import DaemonAlreadyRunning, DaemonStartFailed, NotFound


@given(st.integers(1, 64), st.integers(1, 64))
def test_every_socket_is_somebodys_and_every_frontend_has_one_of_its_own(sockets: int, frontends: int) -> None:
    sockets = max(sockets, frontends)  # there are never fewer: bind_more sees to it
    shares = share_out(sockets, frontends)
    assert len(shares) == frontends
    assert {one for share in shares for one in share} == set(range(sockets))
    assert [share[0] for share in shares] == list(range(frontends))


def test_socket_that_was_alone_on_its_port_is_joined_by_others_that_do_not_listen_yet() -> None:
    taken = bind_query_port("127.0.0.1", 0, 1)
    more: list[socket.socket] = []
    try:
        with pytest.raises(DaemonStartFailed, match="in use"):
            bind_query_port("127.0.0.1", taken[0].getsockname()[1], 1)
        more = bind_more(taken, "127.0.0.1", 3)
        assert {one.getsockname() for one in more} == {taken[0].getsockname()}
        assert [one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in (*taken, *more)] == [1, 0, 0]
        assert bind_more([*taken, *more], "127.0.0.1", 2) == []
    finally:
        close_sockets([*taken, *more])


@pytest.mark.parametrize(
    ("serving", "failed", "is_lost"),
    [
        ({"m": {"1"}}, [], False),
        ({"m": {"1"}}, [("m", "1")], True),
        ({"m": {"1", "2"}}, [("m", "2")], True),  # under an alias
        ({"m": {"1"}}, [("m", "2")], False),  # it does not answer here either
        ({"m": {"1"}}, [("n", "1")], False),
        ({}, [("m", "1")], False),
    ],
)
def test_only_what_answers_queries_is_a_loss(
    serving: dict[str, set[str]], failed: list[tuple[str, str]], is_lost: bool
) -> None:
    loss = find_loss(serving, [{"model": model, "version": version, "reason": "why"} for model, version in failed])
    assert (loss is not None) is is_lost
    if loss is not None:
        assert "why" in loss.message


def test_lock_that_two_share_is_held_until_both_have_let_go(tmp_path: Path) -> None:
    old = StateDir(tmp_path)
    old.acquire()
    new = StateDir(tmp_path)
    new.join(os.dup(old.lock))
    old.yield_up()
    old.release()
    assert is_locked(tmp_path)
    with pytest.raises(DaemonAlreadyRunning):
        StateDir(tmp_path).acquire()
    new.release()
    assert not is_locked(tmp_path)


def test_only_one_of_two_writes_and_what_the_other_would_have_written_comes_later(tmp_path: Path) -> None:
    old, new = StateDir(tmp_path), StateDir(tmp_path)
    old.acquire()
    new.join(os.dup(old.lock))
    old.write("heads.json", b"old")
    new.write("heads.json", b"new")
    new.write("heads.json", b"newest")
    assert old.read("heads.json") == b"old"
    old.yield_up()
    old.write("heads.json", b"late")
    assert old.read("heads.json") == b"old"
    new.take()
    assert old.read("heads.json") == b"newest"
    old.release()
    new.write("heads.json", b"more")
    assert new.read("heads.json") == b"more"
    new.release()


def test_document_of_the_successor_outlives_the_one_before(tmp_path: Path) -> None:
    old, new = StateDir(tmp_path), StateDir(tmp_path)
    old.acquire()
    new.join(os.dup(old.lock))
    old.yield_up()
    new.take()
    new.write("daemon.json", b"{}")
    old.release()
    assert new.read("daemon.json") == b"{}"
    new.release()
    assert new.read("daemon.json") is None


def test_sockets_change_hands_in_one_step_and_the_last_one_removes_the_folder(tmp_path: Path) -> None:
    old, new = RuntimeFolder(tmp_path / "run"), RuntimeFolder(tmp_path / "run")
    old.make(anew=True)
    new.make(anew=False)
    assert old.own != new.own
    for one in (old, new):
        one.draft(one.admin_socket).write_text(one.own.name)
        one.put_in_place(one.admin_socket)
        assert old.admin_socket.read_text() == one.own.name
    old.remove(with_common=False)
    assert new.admin_socket.exists() and new.own.exists() and not old.own.exists()
    new.remove_other("../elsewhere")
    new.remove(with_common=True)
    assert not new.top.exists()


def test_settings_for_a_successor_are_settings_without_what_belonged_to_the_start() -> None:
    first = DaemonSettings.model_validate(
        {"registry": "file:///r", "state_dir": "/s", "port": 0, "ready_fd": 5, "abandon_fd": 6, "slow_s": 0.5}
    )
    plain = first.for_successor(port=4711, admin_port=None, watch=False)
    second = DaemonSettings.model_validate(plain)
    assert (second.port, second.admin_port, second.watch, second.slow_s) == (4711, None, False, 0.5)
    assert (second.ready_fd, second.abandon_fd) == (None, None)


def test_daemon_of_a_release_without_a_hand_over_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: AdminClient, path: str) -> None:
        raise NotFound(f"there is no page {path}")

    monkeypatch.setattr(AdminClient, "get", refuse)
    running = DaemonDocument(7, 1, "now", "127.0.0.1", 1337, None, "/nowhere/admin.sock", "file:///r")
    with pytest.raises(DaemonStartFailed, match="of a release that cannot be replaced") as caught:
        daemon_restart.successor_settings(running)
    assert caught.value.hint == "clipperfs stop, then clipperfs start"


def test_nobody_to_take_over_from_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DaemonStartFailed, match="does not hand over") as caught:
        ask(tmp_path / "next.sock")
    assert "clipperfs stop" in str(caught.value.hint)


def test_refusal_of_the_running_daemon_arrives_as_its_error(tmp_path: Path) -> None:
    listener = descriptors.listen_at(tmp_path / "next.sock")
    listener.setblocking(True)

    def answer() -> None:
        end, _ = listener.accept()
        with end:
            assert descriptors.receive_message(end) == ({"t": "hello", "protocol": 1}, [])
            error = {"error": "DaemonStartFailed", "message": "another restart", "hint": "wait"}
            descriptors.send_message(end, {"t": "refuse", "error": error})

    answering = threading.Thread(target=answer)
    answering.start()
    with pytest.raises(DaemonStartFailed, match="another restart"):
        ask(tmp_path / "next.sock")
    answering.join()
    listener.close()


def test_files_arrive_closed_to_children_and_those_of_nonsense_are_closed(tmp_path: Path) -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two, open(os.devnull) as null:
        os.set_inheritable(null.fileno(), True)
        descriptors.send_message(one, {"t": "files"}, [null.fileno()])
        found = descriptors.receive_message(two)
        assert found is not None
        message, files = found
        assert message == {"t": "files"}
        assert not os.get_inheritable(files[0])
        descriptors.close_all(files)
        before = len(os.listdir("/proc/self/fd"))
        for nonsense in (b"[]", b"{", b'{"t": 1}', b"[" * 100_000):
            socket.send_fds(one, [nonsense], [null.fileno()])
            with pytest.raises(ValueError):
                descriptors.receive_message(two)
        assert len(os.listdir("/proc/self/fd")) == before
        one.close()
        assert descriptors.receive_message(two) is None
