"""What tests with real daemons share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon_rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Return a registry whose daemon is stopped after the test."""
    rig = Rig(tmp_path)
    yield rig
    rig.daemon.stop(0)
