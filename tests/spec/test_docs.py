"""The guides: their links lead somewhere, and what they say of wrappers, hooks and ``model.yaml`` is what there is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from clipperfs.documents import AuthorFile, parse_author_file
from clipperfs.documents.author import INHERITED_FIELDS
from clipperfs.plugins import plugin_names

from .page import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
AUTHOR = (ROOT / "docs" / "model_yaml.md").read_text()
EXAMPLE = AUTHOR.split("```yaml\n")[1].split("```")[0]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual renderers make them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}"


def test_author_example_is_valid_and_names_every_field() -> None:
    author = parse_author_file(EXAMPLE.encode())
    assert author.model_fields_set == set(AuthorFile.model_fields)
    assert [hook.name for hook in author.hooks or []] == ["smoke", "latency", "quality", "command"]


def test_author_example_marks_the_inherited_fields() -> None:
    marked = re.findall(r"^(\w+):.*# ↻", EXAMPLE, re.MULTILINE)
    assert sorted(marked) == sorted(INHERITED_FIELDS)


def test_hooks_of_the_author_example_take_these_options() -> None:
    for hook in parse_author_file(EXAMPLE.encode()).hooks or []:
        module = importlib.import_module(f"clipperfs.hooks.{hook.name}")
        getattr(module, hook.name.capitalize())(hook.options)


def test_tables_list_the_wrappers_and_hooks_that_are_there() -> None:
    wrappers, hooks = AUTHOR.split("## Wrappers")[1].split("## Hooks")
    for text, group in ((wrappers, "clipperfs.wrappers"), (hooks, "clipperfs.hooks")):
        listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
        assert sorted(listed) == plugin_names(group)  # type: ignore[arg-type]


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert f"decisions/{page.name}" in index
        assert page.read_text().startswith(("# Why ", "# How "))
