"""What a daemon makes of its settings by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from clipperfs.serverd.settings import DaemonSettings


@pytest.mark.parametrize(("cores", "frontends"), [(1, 1), (2, 1), (4, 2), (16, 8), (64, 8)])
def test_auto_frontends_leave_cores_to_replicas(monkeypatch: pytest.MonkeyPatch, cores: int, frontends: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    for asked, got in ((0, frontends), (5, 5)):
        settings = DaemonSettings.model_construct(registry="r", state_dir=Path("s"), frontends=asked)
        assert settings.frontend_count == got
