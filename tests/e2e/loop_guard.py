"""The daemon with a guard: each storage call is noted, with the thread that made it and whether a loop runs there.

Started in place of ``clipperfs.serverd`` by ``test_loop.py``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from typing import Any

from clipperfs.serverd.__main__ import main

from clipperfs.store.local import LocalStore

NOTES = "TEST_LOOP_NOTES"
METHODS = ("read", "open", "stat", "list", "create", "replace", "upload", "rename_folder", "delete", "delete_folder")


def guard(method: str, notes: int) -> None:
    """Let a method of the store tell before it does its work."""
    plain = getattr(LocalStore, method)

    @functools.wraps(plain)
    def told(self: LocalStore, *arguments: Any, **options: Any) -> Any:
        where = "loop" if asyncio._get_running_loop() is not None else "thread"
        os.write(notes, f"{where} {threading.current_thread().name} {method} {arguments[0]}\n".encode())
        return plain(self, *arguments, **options)

    setattr(LocalStore, method, told)


if __name__ == "__main__":
    notes = os.open(os.environ[NOTES], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for name in METHODS:
        guard(name, notes)
    main()
