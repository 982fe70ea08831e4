"""setup.cfg against the folders on disk, and what importing clipperfs costs."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "clipperfs": "clipperfs",
    "clipperfs.serverd": "serverd",
    "clipperfs.wrappers": "wrappers",
    "clipperfs.hooks": "hooks",
}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def python(code: str, *, cwd: Path = ROOT, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_packages_in_setup_cfg_are_the_folders_on_disk() -> None:
    on_disk = {
        ".".join([name, *package.parent.relative_to(ROOT / folder).parts])
        for name, folder in FOLDERS.items()
        for package in (ROOT / folder).rglob("__init__.py")
    }
    assert set(lines(setup_cfg()["options"]["packages"])) == on_disk


def test_every_folder_with_code_is_a_package() -> None:
    bare = {
        str(module.parent.relative_to(ROOT))
        for folder in FOLDERS.values()
        for module in (ROOT / folder).rglob("*.py")
        if not (module.parent / "__init__.py").exists()
    }
    assert bare == set()


def test_package_dir_maps_each_folder_to_its_import_name() -> None:
    pairs = (line.split("=") for line in lines(setup_cfg()["options"]["package_dir"]))
    assert {name.strip(): folder.strip() for name, folder in pairs} == FOLDERS


def test_pyproject_has_no_project_table() -> None:
    assert "project" not in tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_in_setup_cfg_is_the_version_of_the_package() -> None:
    source = (ROOT / "clipperfs/__init__.py").read_text()
    assert f'__version__ = "{setup_cfg()["metadata"]["version"]}"' in source


def test_constraints_are_releases_only() -> None:
    pins = [line for line in lines((ROOT / "constraints.txt").read_text()) if not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) is None] == []


def test_every_requirement_is_pinned_in_constraints() -> None:
    options = setup_cfg()
    wanted = lines(options["options"]["install_requires"])
    for extra in options["options.extras_require"].values():
        wanted += lines(extra)
    names = {re.split(r"[\[<>=]", line)[0] for line in wanted} - {"clipperfs"}
    pinned = {line.split("==")[0] for line in lines((ROOT / "constraints.txt").read_text())}
    assert {canonical(name) for name in names} - {canonical(name) for name in pinned} == set()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entry_points() -> list[tuple[str, str, str]]:
    section = setup_cfg()["options.entry_points"]
    return [
        (group, *(part.strip() for part in line.split("=", 1)))  # type: ignore[misc]
        for group, text in section.items()
        for line in lines(text)
    ]


@pytest.mark.parametrize(("group", "name", "value"), entry_points())
def test_entry_point_resolves(group: str, name: str, value: str) -> None:
    assert callable(EntryPoint(name, value, group).load())


@pytest.mark.parametrize("folder", ["serverd", "wrappers", "hooks"])
def test_importing_a_sibling_under_its_folder_name_is_refused(folder: str) -> None:
    result = python(f"import {folder}")
    assert result.returncode == 1
    assert f"ImportError: this folder is clipperfs.{folder}" in result.stderr


HEAVY = {"numpy", "pydantic", "fsspec", "s3fs", "zmq", "uvloop", "rich", "click", "yaml", "watchdog", "asyncio"}


def test_import_clipperfs_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, clipperfs; assert clipperfs.__version__; print(*{n.partition('.')[0] for n in sys.modules})"
    result = python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) & HEAVY == set()


def test_import_clipperfs_takes_under_fifty_milliseconds(tmp_path: Path) -> None:
    code = "import time; start = time.perf_counter(); import clipperfs; print(time.perf_counter() - start)"
    best_s = min(float(python(code, cwd=tmp_path).stdout) for _ in range(5))
    assert best_s < 0.050


def test_command_line_help_imports_no_framework_and_no_storage_client(tmp_path: Path) -> None:
    code = """
import json, sys
from clipperfs.cli import main
sys.argv = ["clipperfs", "--help"]
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=dict(os.environ),
    )
    loaded = set(json.loads(result.stderr.splitlines()[-1]))
    assert (
        loaded & {"numpy", "fsspec", "s3fs", "aiohttp", "zmq", "uvloop", "watchdog", "sklearn", "onnxruntime"} == set()
    )
