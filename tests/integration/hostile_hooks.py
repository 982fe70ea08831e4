"""Hooks that hang, die, flood, break the protocol, tamper or leave processes behind, to test the runner with."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from clipperfs.documents import Verdict
from clipperfs.hook import HookContext

PASSED = Verdict(hook="another name", outcome="passed", reason="fine")

ORPHAN = """
import os, sys, time
os.fork() and os._exit(0)
os.setsid()
os.fork() and os._exit(0)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(300)
"""


class Fine:
    """Passes, and prints."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def check(self, context: HookContext) -> Verdict:
        print("printed by fine")
        return PASSED


class Hang(Fine):
    def check(self, context: HookContext) -> Verdict:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        print("about to hang", flush=True)
        while True:
            time.sleep(1)


class HangInC(Fine):
    def check(self, context: HookContext) -> Verdict:
        ctypes.PyDLL(None).sleep(1000)  # holds the GIL: no handler written in Python would run
        return PASSED


class Stop(Fine):
    def check(self, context: HookContext) -> Verdict:
        os.kill(os.getpid(), signal.SIGSTOP)
        return PASSED


class Exit(Fine):
    def check(self, context: HookContext) -> Verdict:
        print("leaving")
        os._exit(3)


class SysExit(Fine):
    def check(self, context: HookContext) -> Verdict:
        sys.exit("I am done")


class Segfault(Fine):
    def check(self, context: HookContext) -> Verdict:
        ctypes.string_at(0)
        return PASSED


class LateDeath(Fine):
    def check(self, context: HookContext) -> Verdict:
        threading.Timer(0.05, os._exit, [9]).start()
        return PASSED


class Raise(Fine):
    def check(self, context: HookContext) -> Verdict:
        print("clue on stdout")
        raise RuntimeError("the oven is cold")


class Nothing(Fine):
    def check(self, context: HookContext) -> Any:
        return None


class Nan(Fine):
    def check(self, context: HookContext) -> Verdict:
        return PASSED.model_copy(update={"measures": {"loss": float("nan"), "big": list(range(10**6))}})


class Garbage(Fine):
    def check(self, context: HookContext) -> Verdict:
        os.write(int(sys.argv[1]), b"\x00\xff garbage\n")
        time.sleep(60)
        return PASSED


class Forged(Fine):
    def check(self, context: HookContext) -> Verdict:
        os.write(int(sys.argv[1]), b'{"event": "end"}\n')
        return PASSED


class LongLine(Fine):
    def check(self, context: HookContext) -> Verdict:
        while True:
            os.write(int(sys.argv[1]), b"x" * 65536)


class Close(Fine):
    def check(self, context: HookContext) -> Verdict:
        os.close(int(sys.argv[1]))
        time.sleep(60)
        return PASSED


class Flood(Fine):
    def check(self, context: HookContext) -> Verdict:
        block = b"0123456789abcdef" * 65536
        for _ in range(1024):
            os.write(1, block)
        os.write(1, b"the very end")
        raise RuntimeError("flooded")


class Mutate(Fine):
    def check(self, context: HookContext) -> Verdict:
        path = context.candidate.path / "weights"
        info = path.stat()
        with open(path, "r+b") as stream:
            stream.write(b"X")
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        return PASSED


class Litter(Fine):
    def check(self, context: HookContext) -> Verdict:
        assert context.active is not None
        (context.active.path / "cache.tmp").write_text("x")
        return PASSED


class Orphan(Fine):
    def check(self, context: HookContext) -> Verdict:
        tell = self.options["tell"]
        subprocess.run([sys.executable, "-c", ORPHAN, tell], start_new_session=True, check=True)
        while not os.path.exists(tell) or not os.path.getsize(tell):
            time.sleep(0.01)
        if self.options.get("hang"):
            time.sleep(300)
        return PASSED


class Environment(Fine):
    def check(self, context: HookContext) -> Verdict:
        for place in (os.getcwd(), os.environ["TMPDIR"]):
            with open(os.path.join(place, "litter"), "w") as stream:
                stream.write("x")
        passed_on = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False, check=True
        )
        measures = {
            "names": sorted(os.environ),
            "cwd": os.getcwd(),
            "stdin": sys.stdin.read(),
            "passed_on": passed_on.stdout,
            "registry": context.registry_url,
            "policy": context.from_policy,
            "limit": context.time_limit_s,
        }
        return PASSED.model_copy(update={"measures": measures})


class Predict(Fine):
    def check(self, context: HookContext) -> Verdict:
        outputs = context.candidate.predict([[1.0], [2.0]])
        return PASSED.model_copy(update={"measures": {"outputs": outputs}})
