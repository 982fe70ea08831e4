"""Settings of applications."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipperfs import Registry
from clipperfs.errors import InvalidSetting


def test_limits_of_an_application_stay_until_they_are_changed(tmp_path: Path) -> None:
    registry = Registry.init(tmp_path / "r", cache_dir=tmp_path / "c")
    settings: dict[str, Any] = {"input_type": "ints", "default_output": "0", "slo_us": 1000}
    registry.app_register("a", **settings, max_concurrent=5, max_rate=0.5)
    assert not registry.app_register("a", **settings).changed
    state = registry.app_register("a", **settings, max_rate=0).record.state
    assert (state.max_concurrent, state.max_rate) == (5, None)
    with pytest.raises(InvalidSetting, match="max_concurrent"):
        registry.app_register("a", **settings, max_concurrent=-1)
