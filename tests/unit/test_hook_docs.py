"""``docs/hooks.md`` says of the hooks what they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from clipperfs.hooks.latency import LatencyOptions
from clipperfs.hooks.quality import QualityOptions
from clipperfs.hooks.smoke import SmokeOptions

from clipperfs.checking.options import Options
from clipperfs.documents.record import Outcome
from clipperfs.errors import InvalidSetting
from clipperfs.plugins import plugin_names
from clipperfs.testing.hook_suite import make_context, make_subject

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()


def section(name: str) -> str:
    return re.split(r"^##+ ", PAGE.split(f"### `{name}`\n")[1], flags=re.MULTILINE)[0]


def test_every_built_in_hook_has_its_section() -> None:
    assert sorted(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)) == plugin_names("clipperfs.hooks")


def test_every_outcome_is_explained() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## The built-in hooks")[0], re.MULTILINE)) == set(
        get_args(Outcome)
    )


@pytest.mark.parametrize(
    ("name", "options"), [("smoke", SmokeOptions), ("quality", QualityOptions), ("latency", LatencyOptions)]
)
def test_tables_list_the_options_and_their_defaults(name: str, options: type[Options]) -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) ?\|", section(name), re.MULTILINE)
    listed = {option: default for names, default in rows for option in re.findall(r"`(\w+)`", names)}
    assert listed.keys() == options.model_fields.keys()
    for option, default in listed.items():
        value = options.model_fields[option].default
        if value is not None:
            assert default.strip("`") == str(value).replace("1e-09", "1e-9").replace("1e-06", "1e-6"), option


def test_hook_of_the_guide_works(tmp_path: Path) -> None:
    code: dict[str, Any] = {}
    exec(PAGE.split("```python\n")[1].split("```")[0], code)
    hook = code["Constant"]({})
    good = make_subject(tmp_path / "good", lambda inputs: [item[0] for item in inputs], sample=[[1.0], [2.0]])
    bad = make_subject(tmp_path / "bad", lambda inputs: [7 for _ in inputs], sample=[[1.0], [2.0]])
    assert hook.check(make_context(good)).outcome == "passed"
    assert hook.check(make_context(bad)).outcome == "refused"
    with pytest.raises(InvalidSetting):
        code["Constant"]({"depth": 1})
