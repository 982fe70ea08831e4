"""Append to, read and verify a numbered log: the authority of a registry (``registry_layout.md`` §8.2, §8.3).

A record is created exclusively in the slot after the newest one. Of several writers one wins; the others see the
winner's record and decide again. After every attempt the slot is read back: a lost answer looks like a lost race.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from clipperfs import layout
from clipperfs.digest import NO_DIGEST, Digest, digest_bytes
from clipperfs.documents import SINGLE_WRITER, ChangeHint, Evidence, Record, canonical_bytes, parse_document, utc_now
from clipperfs.documents.base import parse_json, validation_summary
from clipperfs.documents.record import REQUIRE_SIGNATURE
from clipperfs.documents.signature import RECORD_TYPE, RecordSignature, pre_authentication
from clipperfs.errors import (
    DamagedLog,
    InvalidDocument,
    InvalidSetting,
    OutcomeUnknown,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    StoredDataError,
    UnknownFeature,
)
from clipperfs.layout import Subject
from clipperfs.limits import LIMITS
from clipperfs.store import Store

KNOWN_FEATURES: frozenset[str] = frozenset([SINGLE_WRITER, REQUIRE_SIGNATURE])
"""Features beyond version 1 of the format that this release understands."""

CLAIM_ATTEMPTS = 5

READ_ALONE = 8
"""So many records are read one by one before several are asked for at once: most callers want no more."""
READ_AHEAD = 16
"""So many reads are under way at once where each is a request over a network."""

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True, slots=True)
class Head(Generic[RecordT]):
    """A record as stored: its content, and the digest of its bytes."""

    record: RecordT
    digest: Digest
    data: bytes = field(repr=False)

    @property
    def seq(self) -> int:
        """Return the record's number."""
        return self.record.seq


@dataclass(frozen=True, slots=True)
class Draft:
    """What a writer wants the next record to say."""

    op: str
    state: Any
    reason: str | None = None
    evidence: Evidence = field(default_factory=Evidence)


class RecordSigner(Protocol):
    """A key that signs records."""

    @property
    def key_id(self) -> str: ...

    def sign(self, data: bytes) -> str:
        """Return the signature in Base64."""


Decide = Callable[[Head[RecordT] | None], Draft | None]
"""Looks at the newest record and says what the next should be, or ``None`` when nothing is to be done. Called again
after a lost race, with the winner's record; raises Conflict when that record makes the request void."""


class Ledger(Generic[RecordT]):
    """The log of one model or one application."""

    def __init__(
        self,
        store: Store,
        subject: Subject,
        kind: type[RecordT],
        registry_id: str,
        *,
        before_writing: Callable[[], None] = lambda: None,
        signer: Callable[[], RecordSigner | None] = lambda: None,
    ) -> None:
        """Open the log; nothing is read.

        Args:
            before_writing: called once for each request to append.
            signer: returns the key that signs records, if any; called for each record.
        """
        self.store = store
        self.subject = subject
        self.kind = kind
        self.registry_id = registry_id
        self._hint = 0
        self._before_writing = before_writing
        self._signer = signer

    def read(self, seq: int) -> Head[RecordT] | None:
        """Return record ``seq``, or ``None`` when its slot is empty.

        Raises:
            DamagedLog: the slot holds something that is not a record of this ledger.
            UnknownFeature: the record needs a feature that this release does not know.
        """
        key = layout.slot(self.subject, seq)
        try:
            data = self.store.read(key, limit_bytes=LIMITS.record_bytes)
        except StoredDataError as error:
            raise self._damaged(seq, error.message) from error
        if data is None:
            return None
        try:
            record = parse_document(self.kind, data, limit_bytes=LIMITS.record_bytes)
        except InvalidDocument as error:
            raise self._damaged(seq, error.message) from error
        unknown = sorted(set(record.requires) - KNOWN_FEATURES)
        if unknown:
            raise UnknownFeature(
                f"record {seq} of {self.subject} needs {', '.join(unknown)}",
                hint="update clipperfs; what is served stays served",
                features=unknown,
            )
        claims = {"registry_id": self.registry_id, "seq": seq, self.subject.kind: self.subject.name}
        for name, expected in claims.items():
            if (found := getattr(record, name)) != expected:
                raise self._damaged(seq, f"{name} is {found!r}, not {expected!r}: it belongs elsewhere")
        return Head(record, digest_bytes(data), data)

    def head(self, *, linked: bool = True) -> Head[RecordT] | None:
        """Return the newest record, its link to the one before it verified; ``None`` for an empty log.

        Costs about 2·log2(n) look-ups for a log of n records whose length is unknown, and a look and two reads when it
        is known.

        Args:
            linked: whether to verify the link; who only shows the record can do without.

        Raises DamagedLog, UnknownFeature.
        """
        hint = self._hint or self._hinted_seq()
        if hint and not self._is_taken(hint + 1) and (head := self.read(hint)) is not None:
            return self._verified(head, linked)
        seq = self._newest_seq(hint)
        if not seq:
            return None
        head = self.read(seq)
        if head is None:  # never go back to an older record as if it were the head
            raise self._damaged(seq, "it was there a moment ago and is gone")
        return self._verified(head, linked)

    def _verified(self, head: Head[RecordT], linked: bool) -> Head[RecordT]:
        if linked:
            self._check_link(head)
        self._hint = head.seq
        return head

    def after(self, seq: int) -> Head[RecordT] | None:
        """Return the record after ``seq``, or ``None``: one request, the cheapest poll of a single ledger."""
        return self.read(seq + 1)

    def records(self, *, newest: int | None = None) -> Iterator[Head[RecordT]]:
        """Yield records from the newest (or from ``newest``) to the first, verifying the chain on the way.

        Raises DamagedLog at the first break.
        """
        start = self._newest_seq() if newest is None else newest
        expected: str | None = None
        for seq, head in self._read_each(range(start, 0, -1)):
            if head is None:
                raise self._damaged(seq, "it is absent, though later records exist")
            if expected is not None and head.digest != expected:
                raise self._damaged(seq, f"its bytes are not those that record {seq + 1} follows")
            yield head
            expected = head.record.prev
        if expected is not None and expected != NO_DIGEST:
            raise self._damaged(1, "it does not begin a chain")

    def from_the_first(self) -> Iterator[Head[RecordT]]:
        """Yield records from the first to the newest, verifying the chain on the way. Holds one at a time.

        Raises DamagedLog at the first break.
        """
        expected: str = NO_DIGEST
        for seq, head in self._read_each(range(1, self._newest_seq() + 1)):
            if head is None:
                raise self._damaged(seq, "it is absent, though later records exist")
            if head.record.prev != expected:
                raise self._damaged(seq, "it does not follow the record before it")
            yield head
            expected = head.digest

    def _read_each(self, seqs: range) -> Iterator[tuple[int, Head[RecordT] | None]]:
        """Read slots in this order. Over a network several at a time, once the caller has gone on for a while."""
        is_near = self.store.local_path(layout.log(self.subject)) is not None or self.store.store_class == "memory"
        alone = seqs if is_near else seqs[:READ_ALONE]
        for seq in alone:
            yield seq, self.read(seq)
        if len(alone) == len(seqs):
            return
        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="records") as pool:
            pending: deque[tuple[int, Future[Head[RecordT] | None]]] = deque()
            try:
                for seq in seqs[len(alone) :]:
                    pending.append((seq, pool.submit(self.read, seq)))
                    if len(pending) >= 2 * READ_AHEAD:
                        asked, reading = pending.popleft()
                        yield asked, reading.result()
                while pending:
                    asked, reading = pending.popleft()
                    yield asked, reading.result()
            finally:
                for _, reading in pending:
                    reading.cancel()

    def append(self, decide: Decide[RecordT], *, actor: str) -> tuple[Head[RecordT] | None, bool]:
        """Append what ``decide`` says; return the newest record and whether it is the caller's.

        Guarantees: atomic, and durable where the store is; at most one record is written, and after a crash or an error
        it is there entirely or not at all.

        Raises:
            OutcomeUnknown: the record may or may not be there, or may yet appear: nothing could be read back, or
                requests that were never answered may still be on their way.
            StorageError: the record is not there, and will not be.
            InvalidDocument: the state no longer fits into a record.
            InvalidSetting: a record cannot hold a value (too long, not Unicode, not finite).
            DamagedLog, UnknownFeature: the log cannot be extended.
        """
        self._before_writing()
        while True:
            base = self.head()
            draft = decide(base)
            if draft is None:
                return base, False
            seq = base.seq + 1 if base else 1
            data = self._spell(seq, base.digest if base else NO_DIGEST, draft, actor)
            if self._claim(seq, data):
                self._hint = seq
                # Not read once more: a read that fails now would call a record lost that is there.
                record = parse_document(self.kind, data, limit_bytes=LIMITS.record_bytes)
                committed = Head(record, digest_bytes(data), data)
                self._tell(committed)
                return committed, True

    def _claim(self, seq: int, data: bytes) -> bool:
        """Write ``data`` into slot ``seq``; say whether it is there. The slot decides, not the storage's answer."""
        key = layout.slot(self.subject, seq)
        is_on_its_way = False
        for attempt in range(CLAIM_ATTEMPTS):
            failure: StorageError | None = None
            try:
                self.store.create(key, data)
            except StorageError as error:
                failure = error
                # No answer: whatever the slot shows now, the request may yet take effect.
                is_on_its_way = is_on_its_way or isinstance(error, StorageUnavailable)
            try:
                found = self.store.read(key, limit_bytes=LIMITS.record_bytes)
            except StoredDataError:
                return False
            except StorageError as error:
                raise self._unknown(seq, (failure or error).message) from error
            if found is not None:
                return found == data
            if failure is not None and (
                isinstance(failure, StorageDenied | StorageFull) or attempt == CLAIM_ATTEMPTS - 1
            ):
                raise self._unknown(seq, failure.message) if is_on_its_way else failure
            time.sleep(0.05 * attempt)
        raise OutcomeUnknown(
            f"the storage accepts record {seq} of {self.subject} but does not show it",
            hint="its listing or reading may lag; see 'clipperfs history' later",
            seq=seq,
        )

    def _unknown(self, seq: int, why: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"record {seq} of {self.subject} may or may not have been written: {why}",
            hint=f"see 'clipperfs history {self.subject.name}' when the storage answers, then run it again",
            seq=seq,
        )

    def _spell(self, seq: int, prev: str, draft: Draft, actor: str) -> bytes:
        try:
            record = self.kind(
                registry_id=self.registry_id,
                seq=seq,
                prev=prev,
                nonce=secrets.token_hex(16),
                time=utc_now(),
                actor=actor[:200],
                op=draft.op,
                reason=draft.reason,
                evidence=draft.evidence,
                requires=draft.state.features,
                state=draft.state,
                **{self.subject.kind: self.subject.name},
            )
            data = self._sign(record)
        except ValidationError as error:
            raise InvalidSetting(f"a record cannot hold this: {validation_summary(error)}") from error
        except ValueError as error:  # a number that is not finite, text that is not Unicode
            raise InvalidSetting(f"a record cannot hold this: {error}") from error
        if len(data) > LIMITS.record_bytes:
            raise InvalidDocument(
                f"the state of {self.subject} needs {len(data)} bytes; a record holds {LIMITS.record_bytes}",
                hint="remove aliases or pins, or purge retired versions with 'clipperfs gc'",
            )
        return data

    def _sign(self, record: RecordT) -> bytes:
        """Return a record's bytes, with a signature over all of them but itself where there is a key."""
        signer = self._signer()
        if signer is None:
            return canonical_bytes(record)
        empty = RecordSignature(key_id=signer.key_id, value="")
        bare = canonical_bytes(record.model_copy(update={"signature": empty}))
        value = signer.sign(pre_authentication(RECORD_TYPE, bare))
        return canonical_bytes(record.model_copy(update={"signature": empty.model_copy(update={"value": value})}))

    def _tell(self, head: Head[RecordT]) -> None:
        """Update the copy for people and wake the watchers. Best effort: the record is what counts."""
        hint = ChangeHint(kind=self.subject.kind, name=self.subject.name, seq=head.seq)
        with contextlib.suppress(StorageError):
            self.store.replace(layout.active_copy(self.subject), head.data)
        with contextlib.suppress(StorageError):
            self.store.create(layout.change(int(time.time() * 1000), secrets.token_hex(4)), canonical_bytes(hint))

    def _newest_seq(self, hint: int | None = None) -> int:
        """Return the number of the newest record by galloping from a hint. Rests on density: slots have no gaps."""
        known = (self._hint or self._hinted_seq()) if hint is None else hint
        if known and not self._is_taken(known):
            known = 0
        step = 1
        while self._is_taken(known + step):
            known += step
            step *= 2
        low, high = known, known + step
        while high - low > 1:
            middle = (low + high) // 2
            if self._is_taken(middle):
                low = middle
            else:
                high = middle
        return low

    def _is_taken(self, seq: int) -> bool:
        return seq <= LIMITS.seq and self.store.stat(layout.slot(self.subject, seq)) is not None

    def _hinted_seq(self) -> int:
        """Return the number that ``active.json`` names; 0 when it is absent or nonsense. It may be stale or forged."""
        try:
            data = self.store.read(layout.active_copy(self.subject), limit_bytes=LIMITS.record_bytes)
            tree = parse_json(data, limit_bytes=LIMITS.record_bytes) if data is not None else {}
        except (StoredDataError, InvalidDocument):
            return 0
        seq = tree.get("seq") if isinstance(tree, dict) else None
        return seq if isinstance(seq, int) and not isinstance(seq, bool) and 0 < seq <= LIMITS.seq else 0

    def _check_link(self, head: Head[RecordT]) -> None:
        if head.seq == 1:
            expected: str = NO_DIGEST
        else:
            before = self.store.read(layout.slot(self.subject, head.seq - 1), limit_bytes=LIMITS.record_bytes)
            if before is None:
                raise self._damaged(head.seq - 1, "it is absent, though later records exist")
            expected = digest_bytes(before)
        if head.record.prev != expected:
            raise self._damaged(head.seq, "it does not follow the record before it")

    def _damaged(self, seq: int, finding: str) -> DamagedLog:
        return DamagedLog(
            f"record {seq} of {self.subject} is damaged: {finding}",
            hint=f"'clipperfs verify {self.subject.name}' shows the extent; restore the file from a backup",
            seq=seq,
            key=layout.slot(self.subject, seq),
        )
