"""The wheel as a user gets it: built, installed into an environment of its own, used outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.interpreted import compiled_modules

ROOT = Path(__file__).parents[2]
SOURCES = [
    "clipperfs",
    "serverd",
    "wrappers",
    "hooks",
    "setup.cfg",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(arguments: list[str | Path], *, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        arguments, cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, timeout=390, check=False
    )


def copy_sources(source: Path) -> Path:
    """Copy what a build needs: it writes beside the sources."""
    for name in SOURCES:
        item = ROOT / name
        if item.is_dir():
            shutil.copytree(item, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(item, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy."""
    source, target = copy_sources(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    # Without isolation the build needs no network; setuptools is among the test requirements.
    result = run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, source],
        cwd=source,
        CLIPPERFS_COMPILED="must",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    [built] = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment that borrows this one's third parties; return its folder of programs."""
    place = tmp_path_factory.mktemp("user") / "env"
    result = run([sys.executable, "-m", "venv", "--without-pip", place], cwd=place.parent)
    assert result.returncode == 0, result.stderr
    python = place / "bin" / "python"
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=place).stdout.strip())
    # A path line, unlike a copied .pth file, does not activate the editable install that lies there.
    (site / "third_parties.pth").write_text(sysconfig.get_path("purelib") + "\n")
    result = run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--no-deps",
            "--no-index",
            "--ignore-installed",
            wheel,
        ],
        cwd=place,
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_ROOT_USER_ACTION="ignore",
    )
    assert result.returncode == 0, result.stderr
    return place / "bin"


def test_wheel_puts_only_clipperfs_into_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    library = "clipperfs__mypyc" + sysconfig.get_config_var("EXT_SUFFIX")
    metadata = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {name.partition("/")[0] for name in names} == {"clipperfs", library, metadata}


def test_installed_way_of_a_query_is_compiled(installed: Path, tmp_path: Path) -> None:
    code = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]), sep='\\n')"
    result = run([installed / "python", "-c", code, *compiled_modules()], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    files = result.stdout.split()
    assert len(files) == len(compiled_modules())
    assert [name for name in files if not name.endswith(".so") or not name.startswith(str(installed.parent))] == []


def test_wheel_without_compiling_is_for_every_machine_and_runs(tmp_path: Path) -> None:
    source = copy_sources(tmp_path / "source")
    result = run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source],
        cwd=source,
        CLIPPERFS_COMPILED="no",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import clipperfs.serverd.frontend as one; print(one.__file__)"
    result = run([sys.executable, "-S", "-c", code, wheel], cwd=tmp_path, PYTHONPATH=sysconfig.get_path("purelib"))
    assert result.stdout.startswith(str(wheel)), result.stderr


def test_unknown_wish_for_compiling_ends_the_build(tmp_path: Path) -> None:
    source = copy_sources(tmp_path / "source")
    result = run([sys.executable, "setup.py", "--version"], cwd=source, CLIPPERFS_COMPILED="maybe")
    assert result.returncode != 0
    assert "CLIPPERFS_COMPILED must be yes, no or must, not 'maybe'" in result.stderr


def test_wheel_holds_every_module_of_the_checkout(wheel: Path) -> None:
    expected = {str(file.relative_to(ROOT)) for file in (ROOT / "clipperfs").rglob("*.py")}
    for sibling in ("serverd", "wrappers", "hooks"):
        expected |= {f"clipperfs/{file.relative_to(ROOT)}" for file in (ROOT / sibling).rglob("*.py")}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")} == expected


def test_wheel_holds_types_schemas_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    schemas = {
        f"clipperfs/documents/schemas/{file.name}" for file in (ROOT / "clipperfs/documents/schemas").glob("*.json")
    }
    assert schemas
    assert schemas <= set(names)
    assert "clipperfs/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_carries_the_requirements_of_setup_cfg(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    text = archive.read(metadata).decode()
    assert "Requires-Dist: fsspec" in text
    assert 'extra == "sklearn"' in text


def test_installed_command_prints_its_version(installed: Path, tmp_path: Path) -> None:
    result = run([installed / "clipperfs", "--version"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "0.1.0" in result.stdout


@pytest.mark.parametrize("sibling", ["serverd", "wrappers", "hooks"])
def test_installed_sibling_is_imported_from_the_environment(installed: Path, tmp_path: Path, sibling: str) -> None:
    code = f"import clipperfs.{sibling} as sibling; print(sibling.__file__)"
    result = run([installed / "python", "-c", code], cwd=tmp_path)
    assert result.stdout.startswith(str(installed.parent)), result.stdout + result.stderr


def test_users_own_folder_called_hooks_stays_the_users(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "__init__.py").write_text("mine = True\n")
    code = "import hooks, clipperfs.hooks; print(hooks.mine, clipperfs.hooks.__name__)"
    result = run([installed / "python", "-c", code], cwd=tmp_path)
    assert result.stdout.strip() == "True clipperfs.hooks", result.stderr


def test_installed_plugins_are_found_by_name(installed: Path, tmp_path: Path) -> None:
    code = (
        "from clipperfs.plugins import load_plugin, plugin_names\n"
        "for group in ('clipperfs.wrappers', 'clipperfs.hooks'):\n"
        "    for name in plugin_names(group):\n"
        "        print(name, load_plugin(group, name).__module__)\n"
    )
    result = run([installed / "python", "-c", code], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = dict(line.split() for line in result.stdout.splitlines())
    assert {"noop", "sklearn", "onnx", "closure", "python", "integrity", "loadable", "smoke", "command"} <= set(found)


@pytest.mark.parametrize("module", ["clipperfs.serverd", "clipperfs.serverd.frontend", "clipperfs.replica.host"])
def test_installed_process_modules_are_importable(installed: Path, tmp_path: Path, module: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({module!r}) is not None)"
    result = run([installed / "python", "-P", "-c", code], cwd=tmp_path)
    assert result.stdout.strip() == "True", result.stderr


def test_editable_install_imports_siblings_from_their_folders(tmp_path: Path) -> None:
    """The environment that runs the tests is an editable install of this checkout."""
    code = "import clipperfs.serverd, clipperfs.wrappers, clipperfs.hooks; print(clipperfs.serverd.__file__)"
    result = run([sys.executable, "-c", code], cwd=tmp_path)
    assert result.stdout.strip() == str(ROOT / "serverd" / "__init__.py"), result.stderr
