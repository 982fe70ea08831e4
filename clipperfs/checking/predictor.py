"""Runs the wrapper of one version for the hooks of a run: started when first asked for, shared, never started twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from clipperfs.checking.request import CheckRequest, CheckSubject
from clipperfs.checking.sample import read_sample
from clipperfs.errors import ClipperfsError, LoadFailed
from clipperfs.replica.session import ReplicaSession
from clipperfs.wrapper import LoadContext

DEFAULT_INPUT_TYPE: Final = "doubles"
"""For a version that says nothing and inherits nothing."""

Role = Literal["candidate", "active"]


class SessionPredictor:
    """A :class:`clipperfs.hook.Predictor` on a replica process of its own. Not for several threads at once."""

    def __init__(
        self, role: Role, subject: CheckSubject, request: CheckRequest, tell: Callable[[str, Role], None]
    ) -> None:
        self._role = role
        self._subject = subject
        self._request = request
        self._tell = tell
        self._session: ReplicaSession | None = None
        self.load_failure: ClipperfsError | None = None
        """Why the wrapper could not be loaded; every later use raises it again."""

    def load(self) -> None:
        """Start the wrapper and load the version, unless that has been done. Raises LoadFailed."""
        self._ready_session()

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """Return one output for each input."""
        return self._ready_session().predict(inputs)

    def predict_timed(self, inputs: Sequence[Any]) -> tuple[list[Any], float]:
        """Return the outputs and how long the wrapper took, in milliseconds."""
        return self._ready_session().predict_timed(inputs)

    def sample(self) -> list[Any] | None:
        """Return the author's sample inputs. Raises DamagedVersion."""
        return read_sample(self._subject.path, self._subject.settings)

    def close(self) -> None:
        """End the process."""
        if self._session is not None:
            self._session.close()

    def _ready_session(self) -> ReplicaSession:
        if self.load_failure is not None:
            raise self.load_failure
        if self._session is None:
            self._tell("loading", self._role)
            try:
                self._session = self._start()
            except ClipperfsError as error:
                self.load_failure = error
                raise
            finally:
                self._tell("loaded", self._role)
        return self._session

    def _start(self) -> ReplicaSession:
        subject, settings = self._subject, self._subject.settings
        if settings.wrapper is None:
            raise LoadFailed(
                f"version {subject.version} names no wrapper",
                hint="publish it with --wrapper KIND, or with a model.yaml that says 'wrapper: KIND'",
            )
        session = ReplicaSession(
            LoadContext(
                path=subject.path,
                model=self._request.model,
                version=subject.version,
                input_type=settings.input_type or DEFAULT_INPUT_TYPE,
                allow_code=self._request.allow_code,
                options=settings.wrapper.options,
            ),
            settings.wrapper.kind,
            load_timeout_s=self._request.load_timeout_s,
            predict_timeout_s=self._request.predict_timeout_s,
            max_batch=settings.max_batch,
        )
        session.start()
        return session
