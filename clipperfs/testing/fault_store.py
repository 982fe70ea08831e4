"""A store that fails on demand: the nth call errs, crashes the process, or takes effect and loses its answer."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from clipperfs.errors import StorageUnavailable
from clipperfs.store import Entry, Piece, Progress, RangedStore, Store

T = TypeVar("T")

Fault = Literal["error", "crash", "crash-after", "lost"]
"""``error``: nothing happened, and the caller is told. ``crash``: nothing happened, and nothing of the process runs any
more. ``crash-after``: the same, but the call took effect. ``lost``: it took effect, but the caller is told the
opposite."""


class Crashed(BaseException):
    """The process is gone: not an ``Exception``, so that nothing handles it."""


class FaultStore:
    """Wraps a store and counts its calls; the call with number ``at`` (from 1) meets ``fault``.

    After a crash every further call crashes too: clean-up code of a dead process does not run. ``calls`` holds
    ``(method, key)`` of every call so far.
    """

    def __init__(self, store: Store, *, at: int = 0, fault: Fault = "error") -> None:
        self.inner = store
        self.at = at
        self.fault: Fault = fault
        self.calls: list[tuple[str, str]] = []
        self.has_crashed = False
        self.url = store.url
        self.store_class = store.store_class
        self.capabilities = store.capabilities

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        return self._meet("read", key, lambda: self.inner.read(key, limit_bytes=limit_bytes))

    def open(self, key: str) -> BinaryIO | None:
        return self._meet("open", key, lambda: self.inner.open(key))

    def read_range(self, key: str, start: int, length: int) -> Piece | None:
        inner = self.inner
        assert isinstance(inner, RangedStore), "asked of a store that does not declare ranged_reads"
        return self._meet("read_range", key, lambda: inner.read_range(key, start, length))

    def stat(self, key: str) -> Entry | None:
        return self._meet("stat", key, lambda: self.inner.stat(key))

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self._meet("list", prefix, lambda: iter([*self.inner.list(prefix, after=after)]))

    def walk(self, prefix: str) -> Iterator[Entry]:
        return self._meet("walk", prefix, lambda: iter([*self.inner.walk(prefix)]))

    def create(self, key: str, data: bytes) -> bool:
        return self._meet("create", key, lambda: self.inner.create(key, data))

    def replace(self, key: str, data: bytes) -> None:
        self._meet("replace", key, lambda: self.inner.replace(key, data))

    def upload(
        self,
        source: str | os.PathLike[str],
        key: str,
        *,
        executable: bool = False,
        progress: Progress | None = None,
    ) -> str:
        def call() -> str:
            return self.inner.upload(source, key, executable=executable, progress=progress)

        return self._meet("upload", key, call)

    def rename_folder(self, source: str, target: str) -> bool:
        return self._meet("rename_folder", target, lambda: self.inner.rename_folder(source, target))

    def delete(self, key: str) -> None:
        self._meet("delete", key, lambda: self.inner.delete(key))

    def delete_folder(self, prefix: str) -> None:
        self._meet("delete_folder", prefix, lambda: self.inner.delete_folder(prefix))

    def local_path(self, key: str) -> Path | None:
        return self.inner.local_path(key)

    def _meet(self, method: str, key: str, call: Callable[[], T]) -> T:
        if self.has_crashed:
            raise Crashed(f"{method} {key}: the process is gone")
        self.calls.append((method, key))
        if len(self.calls) != self.at:
            return call()
        if self.fault in ("crash-after", "lost"):
            answer = call()
            if isinstance(answer, io.IOBase):
                answer.close()
        if self.fault in ("crash", "crash-after"):
            self.has_crashed = True
            raise Crashed(f"{method} {key}")
        raise StorageUnavailable(f"injected fault at call {self.at}: {method} {key}", key=key)
