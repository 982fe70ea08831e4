"""The frame of the command line: start-up cost, help, global options on either side, typos, and how a run ends."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from clipperfs.cli import exit as exit_table
from clipperfs.cli.frame import Command
from clipperfs.cli.reference import reference
from clipperfs.cli.root import clipperfs
from clipperfs.errors import DamagedLog

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "pydantic", "fsspec", "zmq", "rich", "yaml", "msgpack", "uvloop", "asyncio", "clipperfs.registry")


def commands(
    command: click.Command = clipperfs, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that is not a group, with the words that name it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command, info_name="clipperfs")
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from commands(below, (*path, name))


COMMANDS = dict(commands())


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where no clipperfs.toml is near."""
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(clipperfs, list(arguments), **options)


def run_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipperfs.cli", *arguments], capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["app", "--help"], ["publish", "--help"], ["--version"], ["nonsense"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom clipperfs.cli.root import clipperfs\n"
        f"try:\n    clipperfs.main({arguments!r}, prog_name='clipperfs')\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout + done.stderr


def test_help_of_the_whole_shows_every_command_under_a_heading() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for path in COMMANDS:
        assert f"\n  {path[0]} " in result.stdout
    assert "..." not in result.stdout.partition("Publish:")[2]


@pytest.mark.parametrize("path", COMMANDS, ids="-".join)
def test_help_of_every_command_has_an_example(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert f"\n  clipperfs {' '.join(path)}" in result.stdout.partition("Examples:")[2]


@pytest.mark.parametrize("path", COMMANDS, ids="-".join)
def test_every_example_parses(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert isinstance(command, Command)
    for example in command.examples:
        words = shlex.split(example)
        assert words[: len(path) + 1] == ["clipperfs", *path]
        command.make_context(path[-1], words[len(path) + 1 :])


@pytest.mark.parametrize("path", COMMANDS, ids="-".join)
def test_every_command_takes_the_global_options(path: tuple[str, ...]) -> None:
    spellings = {spelling for parameter in COMMANDS[path].params for spelling in parameter.opts}
    assert {"--registry", "--json", "--debug"} <= spellings


def test_page_of_the_commands_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "run: python -m clipperfs.cli.reference > docs/cli.md"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--registry", "{url}", "--json", "app", "list"],
        ["app", "list", "--registry", "{url}", "--json"],
        ["--json", "app", "list", "--registry", "{url}"],
        ["--registry", "elsewhere", "app", "list", "--json", "--registry", "{url}"],
        ["--json", "app", "--registry", "{url}", "list"],
    ],
)
def test_global_options_stand_on_either_side(tmp_path: Path, arguments: list[str]) -> None:
    url = str(tmp_path / "registry")
    assert run("init", url).exit_code == 0
    result = run(*(word.format(url=url) for word in arguments))
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_registry_comes_from_flag_then_environment_then_file(tmp_path: Path) -> None:
    for name in ("flag", "environment", "file"):
        assert run("init", str(tmp_path / name)).exit_code == 0
    (tmp_path / "clipperfs.toml").write_text("registry = 'file'\n")

    def url(*arguments: str, **environment: str) -> str:
        result = run("init", "--json", *arguments, env=environment)
        return Path(json.loads(result.stdout)["url"]).name

    assert url() == "file"
    assert url(CLIPPERFS_REGISTRY=str(tmp_path / "environment")) == "environment"
    flag = str(tmp_path / "flag")
    assert url("--registry", flag, CLIPPERFS_REGISTRY=str(tmp_path / "environment")) == "flag"


def test_missing_registry_is_a_usage_error_that_names_three_ways() -> None:
    result = run("list")
    assert result.exit_code == exit_table.USAGE
    for way in ("--registry", "CLIPPERFS_REGISTRY", "clipperfs.toml"):
        assert way in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["publsh"], "publish"),
        (["app", "regster"], "register"),
        (["list", "--jsn"], "--json"),
        (["hook", "lst"], "list"),
    ],
)
def test_typo_names_the_nearest_word(arguments: list[str], guess: str) -> None:
    result = run(*arguments)
    assert result.exit_code == exit_table.USAGE
    assert guess in result.stderr.partition("Error:")[2]


def test_typo_in_the_settings_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "clipperfs.toml").write_text("registy = 'x'\n")
    result = run("list")
    assert result.exit_code == exit_table.USAGE
    assert "did you mean registry?" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["list", "--json"], ["--json", "activate", "m"], ["--json", "nonsense"], ["list", "--no", "--json"]]
)
def test_usage_error_under_json_is_a_document_on_stderr(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == exit_table.USAGE
    assert result.stdout == ""
    assert json.loads(result.stderr)["error"] == "UsageError"


class Failing(click.Command):
    """A command that raises what it is told to."""

    error: BaseException = Exception()

    def invoke(self, ctx: click.Context) -> Any:
        raise self.error


@pytest.fixture
def failing() -> Iterator[Failing]:
    command = Failing("fail")
    clipperfs.add_command(command)
    yield command
    del clipperfs.commands["fail"]


def test_error_shows_its_message_its_hint_and_no_traceback(failing: Failing) -> None:
    failing.error = DamagedLog("record 3 of \x1b[31mdigits is forged", hint="restore it")
    result = run("fail")
    assert result.exit_code == exit_table.VERIFICATION_FAILED
    assert result.stderr == "Error: record 3 of \\x1b[31mdigits is forged\n  → restore it\n"


def test_error_under_json_carries_its_fields(failing: Failing) -> None:
    failing.error = DamagedLog("forged", hint="restore it", seq=3, path=Path("x"))
    result = run("--json", "fail")
    assert json.loads(result.stderr) == {
        "error": "DamagedLog",
        "message": "forged",
        "hint": "restore it",
        "seq": 3,
        "path": "x",
    }


def test_unexpected_exception_is_called_a_defect(failing: Failing) -> None:
    failing.error = ZeroDivisionError("oops")
    result = run("fail")
    assert result.exit_code == exit_table.FAILED
    assert "this is a defect" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(failing: Failing) -> None:
    failing.error = ZeroDivisionError("oops")
    assert "Traceback" in run("--debug", "fail").stderr


def test_interrupt_exits_130(failing: Failing) -> None:
    failing.error = KeyboardInterrupt()
    assert run("fail").exit_code == exit_table.INTERRUPTED


def test_reader_that_goes_away_is_no_error_worth_a_word(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "clipperfs.cli", "hook", "list"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (exit_table.FAILED, "")


def test_full_disk_below_stdout_is_reported() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "clipperfs.cli", "hook", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == exit_table.FAILED
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize(("closing", "exits"), [(">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0)])
def test_closed_streams_are_no_obstacle(closing: str, exits: int) -> None:
    program = f"exec {sys.executable} -m clipperfs.cli hook list {closing}"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (exits, "")


def test_terminal_without_unicode_still_shows_everything(tmp_path: Path) -> None:
    url = str(tmp_path / "registry")
    assert run("init", url).exit_code == 0
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "CLIPPERFS_REGISTRY": url}
    arguments = ["app", "register", "a", "--input-type", "ints", "--default-output", "模型", "--slo", "1s"]
    assert run_process(*arguments, env=environment).returncode == 0
    done = run_process("app", "show", "a", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u6a21\\u578b" in done.stdout


def test_completion_of_the_shell_finds_commands() -> None:
    environment = {
        **os.environ,
        "_CLIPPERFS_COMPLETE": "bash_complete",
        "COMP_WORDS": "clipperfs act",
        "COMP_CWORD": "1",
    }
    program = "from clipperfs.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "plain,activate"


def test_deleted_working_folder_is_no_obstacle(tmp_path: Path) -> None:
    url = tmp_path / "registry"
    assert run("init", str(url)).exit_code == 0
    program = (
        f"cd $(mktemp -d) && rmdir $PWD && exec {sys.executable} -P -m clipperfs.cli --registry {url} app list --json"
    )
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
