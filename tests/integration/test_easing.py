"""What loads runs behind others, and afterwards nothing of that is left, in any thread or child."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clipperfs.serverd.easing import NICE, ease, eased_thread, may_lower_nice, restore

CODE = """
import subprocess, sys, threading, time
sys.stdin.readline()
for _ in range(3):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """Return a process that makes threads and a child when it reads a line, and prints the child's id."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    os.killpg(process.pid, 9)
    process.communicate()


def threads_of(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def nice_of(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_eased_process_its_threads_and_children_are_restored(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    base = nice_of(0)
    session = Path(f"/proc/{process.pid}/autogroup")
    ease(process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    child = int(process.stdout.readline())
    all_threads = [*threads_of(process.pid), *threads_of(child)]
    assert len(all_threads) == 5
    assert {os.sched_getscheduler(thread) for thread in all_threads} == {os.SCHED_BATCH}
    eased_nice = base + NICE if may_lower_nice(base) else base
    assert {nice_of(thread) for thread in all_threads} == {eased_nice}
    if session.exists():
        assert session.read_text().split()[-1] in (str(NICE), "0")  # the kernel may have been asked too often
    give_up_s = time.monotonic() + 10
    while not restore(process.pid):
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
    assert {os.sched_getscheduler(thread) for thread in all_threads} == {os.SCHED_OTHER}
    assert {nice_of(thread) for thread in all_threads} == {base}
    if session.exists():
        assert session.read_text().split()[-1] == "0"


def test_thread_that_chose_a_policy_of_its_own_keeps_it(process: subprocess.Popen[str]) -> None:
    ease(process.pid)
    os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
    restore(process.pid)
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE


def test_process_that_has_ended_is_restored_without_a_word() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    ease(process.pid)
    assert restore(process.pid)


def test_eased_thread_and_what_it_starts_run_behind_and_others_do_not() -> None:
    seen: list[tuple[int, int]] = []

    def look() -> None:
        seen.append((os.sched_getscheduler(threading.get_native_id()), nice_of(threading.get_native_id())))

    def work() -> None:
        with eased_thread():
            look()
            inner = threading.Thread(target=look)
            inner.start()
            inner.join()
        look()

    before = (os.sched_getscheduler(0), nice_of(0))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [policy for policy, _ in seen] == [os.SCHED_BATCH, os.SCHED_BATCH, os.SCHED_OTHER]
    assert seen[2] == before == (os.sched_getscheduler(0), nice_of(0))
