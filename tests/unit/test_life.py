"""Whether a process's life was worth its start, without processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from clipperfs.serverd import life as life_module
from clipperfs.serverd.life import Life


def test_life_that_never_got_ready_was_not_worth_its_start() -> None:
    assert not Life(0.0).was_worth_its_start(1000.0)


@pytest.mark.parametrize(("death_s", "is_worth"), [(12.0, False), (14.9, False), (15.0, True), (100.0, True)])
def test_life_is_worth_its_start_once_it_was_ready_for_half_as_long(death_s: float, is_worth: bool) -> None:
    life = Life(0.0)
    life.get_ready(10.0)
    life.get_ready(50.0)  # ready is ready: saying so again changes nothing
    assert life.was_worth_its_start(death_s) is is_worth


def test_oom_killer_is_noticed_only_in_the_lifetime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(life_module, "VMSTAT", vmstat)
    assert not Life(0.0).met_the_oom_killer()  # a kernel that does not tell
    vmstat.write_text("pgfault 9\noom_kill 3\n")
    life = Life(0.0)
    assert not life.met_the_oom_killer()
    vmstat.write_text("pgfault 9\noom_kill 4\n")
    assert life.met_the_oom_killer()
