"""Many processes move one pointer at once, and some are killed: one order explains what every one of them was told."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipperfs import Registry
from tests.integration.history_of_activators import Run, prepare, race
from tests.scale import scaled


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_history_of_racing_activators_is_linearizable(registry: Registry, tmp_path: Path) -> None:
    prepare(registry, tmp_path)
    processes, operations = scaled(8, 32), scaled(100, 2000)
    run = Run(processes, operations, kills=scaled(12, 120), kill_every_s=0.06 * scaled(1, 12), timeout_s=7000)
    judged = race(registry, tmp_path, run)
    print(f"\n{processes} processes x {operations}: {judged}")
    assert judged.faults == []
    assert judged.tally["operations"] >= processes * operations
    assert judged.tally["unknown"] > 0, "nobody was killed in the middle of anything"
    assert registry.verify().ok


@pytest.mark.proof
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("opener", "found"),
    [("open_check_then_act", ("lost", "damaged", "moved")), ("open_lagging", ("order",))],
)
def test_planted_fault_of_the_store_is_found(
    registry: Registry, tmp_path: Path, opener: str, found: tuple[str, ...]
) -> None:
    prepare(registry, tmp_path)
    run = Run(6, 60, kills=0, kill_every_s=1, timeout_s=250, opener=f"tests.integration.planted_stores:{opener}")
    judged = race(registry, tmp_path, run)
    assert any(fault.startswith(found) for fault in judged.faults), judged
