"""Requests whose bodies are not plain JSON, from their headers to the predict handler: decompressed, or taken raw."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final

from clipperfs.wire import Body

from .exchange import Exchange
from .form import BODY_ERROR, BadBodyError, BodyForm, decompress, raw_inputs
from .predict import PredictHandler
from .query import QUERY_ERROR, BadQueryError

THREADS: Final = 2
SMALL_BYTES: Final = 16 * 1024
SMALL_PLAIN_BYTES: Final = 64 * 1024
"""A compressed body up to the first size that grows to no more than the second is decompressed on the loop: to hand it
to a thread costs more."""


class FormHandler:
    """Answers ``POST /<app>/predict`` with compressed or raw bodies. Use it on the loop."""

    def __init__(self, predict: PredictHandler, limit_bytes: int) -> None:
        self._predict = predict
        self._limit_bytes = limit_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decompress")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def handle(self, path: bytes, exchange: Exchange, body: Body, form: BodyForm) -> None:
        """Answer one request to an application's path, now or later."""
        if form.media == b"multipart":
            exchange.fail(
                415,
                BODY_ERROR,
                "multipart bodies are not read; send the file itself: curl --data-binary @FILE, with its type",
            )
            return
        if not form.encoding:
            self._answer(path, exchange, body, form, monotonic())
            return
        if len(body) <= SMALL_BYTES:
            try:
                plain = decompress(body, form.encoding, min(self._limit_bytes, SMALL_PLAIN_BYTES))
            except BadBodyError as error:
                if error.status != 413 or self._limit_bytes <= SMALL_PLAIN_BYTES:
                    exchange.fail(error.status, BODY_ERROR, error.cause)
                    return
            else:
                self._answer(path, exchange, plain, form, monotonic())
                return
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self._threads, decompress, body, form.encoding, self._limit_bytes)

        def finish(task: asyncio.Future[bytes]) -> None:
            if task.cancelled():
                exchange.fail(503, "Server unavailable", "the server is stopping")
                return
            error = task.exception()
            if isinstance(error, BadBodyError):
                exchange.fail(error.status, BODY_ERROR, error.cause)
            elif error is not None:
                loop.call_exception_handler({"message": "decompressing a body failed", "exception": error})
                exchange.fail(500, "Internal error", "the body could not be decompressed; the server's log says why")
            else:
                # Its time begins now, as for compressed JSON: deadlines are watched in the order of the arrivals.
                self._answer(path, exchange, task.result(), form, monotonic())

        task.add_done_callback(finish)

    def _answer(self, path: bytes, exchange: Exchange, body: Body, form: BodyForm, arrived: float) -> None:
        entry = self._predict.routes.get(path)  # now: the table may have changed while a thread had the body
        if entry is None:
            exchange.fail(404, "Not found", "the application was deleted a moment ago")
            return
        try:
            pin, key = form.version.decode("ascii") or None, form.key.decode() or None
        except UnicodeDecodeError:
            cause = "Clipperfs-Version must be ASCII, Clipperfs-Key UTF-8"
            self._predict.refuse(entry, exchange, BadQueryError(QUERY_ERROR, cause))
            return
        if not form.is_raw:
            self._predict.handle(entry, exchange, body, pin, key)
            return
        try:
            inputs = raw_inputs(body, form, entry.codec)
        except BadQueryError as error:
            self._predict.refuse(entry, exchange, error)
            return
        self._predict.handle_packed(entry, exchange, inputs, pin, key, arrived)
