"""The wrapper keeps the contract of every wrapper. Run it with ``pytest`` where both are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipperfs.errors import LoadFailed
from clipperfs.testing.wrapper_suite import WrapperCase, WrapperSuite


class TestTable(WrapperSuite):
    """Each test runs a real replica process, as a daemon does."""

    def make_case(self, folder: Path) -> WrapperCase:
        (folder / "model.csv").write_text('anna,"{""risk"": 0.25}"\nbert,high\n', encoding="utf-8")
        return WrapperCase(
            "table",
            "strings",
            inputs=["anna", "bert", "nobody"],
            expected=[{"risk": 0.25}, "high", "unknown"],
            options={"missing": "unknown"},
        )

    @pytest.mark.parametrize("text", ["anna\n", "anna,1,2\n", "anna,1\nanna,2\n"])
    def test_file_that_is_no_table_does_not_load(self, case: WrapperCase, tmp_path: Path, text: str) -> None:
        (tmp_path / "model.csv").write_text(text, encoding="utf-8")
        with pytest.raises(LoadFailed, match=r"row [12] of model\.csv"), self.open_session(case, tmp_path):
            pass
