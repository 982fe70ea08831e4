"""What keeps a process that runs for months from growing, in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, gc, sys, threading
from clipperfs.serverd.heap import set_start_aside, share_one_arena

if "one arena" in sys.argv:
    share_one_arena()
all_are_there = threading.Barrier(8)

def allocate():
    kept = [bytearray(5000) for _ in range(100)]
    all_are_there.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
set_start_aside()
print("set aside:", gc.get_freeze_count(), flush=True)
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
output = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, output)
libc.fflush(output)
"""


def run(*arguments: str) -> str:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="this C library does not tell of its arenas")
def test_threads_share_one_arena_where_told_to() -> None:
    assert run().count("<heap nr=") > 1
    assert run("one arena").count("<heap nr=") == 1


def test_what_is_there_at_the_start_is_out_of_the_collectors_sight() -> None:
    [line] = [line for line in run().splitlines() if line.startswith("set aside: ")]
    assert int(line.removeprefix("set aside: ")) > 1000
