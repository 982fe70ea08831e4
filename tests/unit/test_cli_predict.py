"""``predict``: what INPUT may be, what is printed, and which daemon is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clipperfs.cli.root import clipperfs
from clipperfs.client import Client, Prediction
from clipperfs.errors import InvalidInput

LATE = "Failed to retrieve a prediction response within the specified latency SLO"


class Asked:
    """Stands for a daemon: remembers what it was asked, and answers with ``output``."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.output: Any = 7
        self.default: str | None = None

    def predict(
        self, client: Client, app: str, value: Any = None, *, batch: Any = None, version: Any = None, key: Any = None
    ) -> Any:
        call = {"url": client.url, "app": app, "input": value, "batch": batch, "version": version}
        self.calls.append(call if key is None else {**call, "key": key})
        if app == "refusing":
            raise InvalidInput("input is a text, not doubles")
        answer = Prediction(self.output, 1, self.default is not None, self.default, "2")
        return answer if batch is None else [answer for _ in batch]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    one = Asked()
    monkeypatch.setattr(Client, "predict", lambda *arguments, **options: one.predict(*arguments, **options))
    monkeypatch.chdir(tmp_path)
    return one


def run(*arguments: str, exits: int = 0, **options: Any) -> Result:
    result = CliRunner().invoke(clipperfs, ["predict", *arguments], **options)
    assert result.exit_code == exits, result.output
    return result


def test_output_is_printed_and_nothing_else(asked: Asked) -> None:
    result = run("digits", "[1, 2.5]")
    assert (result.stdout, result.stderr) == ("7\n", "")
    assert asked.calls == [
        {"url": "http://127.0.0.1:1337", "app": "digits", "input": [1, 2.5], "batch": None, "version": None}
    ]


def test_key_is_passed_on(asked: Asked) -> None:
    run("digits", "[1]", "--key", "user-1")
    assert asked.calls[0]["key"] == "user-1"


@pytest.mark.parametrize(
    ("output", "printed"),
    [("cat", "cat"), ("a\x1b[2J", "a\\x1b[2J"), ([1, "x"], '[1, "x"]'), (None, "null"), (True, "true")],
)
def test_text_is_printed_bare_and_the_rest_as_json(asked: Asked, output: Any, printed: str) -> None:
    asked.output = output
    assert run("digits", "[1]").stdout == printed + "\n"


def test_default_output_is_explained_on_stderr(asked: Asked) -> None:
    asked.default = LATE
    result = run("digits", "[1]")
    assert (result.stdout, result.stderr) == ("7\n", f"this is the default output: {LATE}\n")


def test_json_prints_the_whole_reply(asked: Asked) -> None:
    asked.default = LATE
    result = run("digits", "[1]", "--json")
    assert json.loads(result.stdout) == {
        "output": 7,
        "query_id": 1,
        "default": True,
        "default_explanation": LATE,
        "version": "2",
    }
    assert result.stderr == ""


def test_batch_prints_a_line_for_each_input(asked: Asked) -> None:
    asked.default = LATE
    result = run("digits", "[[1], [2]]", "--batch", "--version", "stable")
    assert result.stdout == "7\n7\n"
    assert result.stderr == f"2 of 2 are the default output: {LATE}\n"
    assert (asked.calls[0]["batch"], asked.calls[0]["version"]) == ([[1], [2]], "stable")


def test_input_comes_from_a_file_or_from_standard_input(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text('"Grüße"')
    run("digits", "@row.json")
    run("digits", "-", input="[3]")
    assert [call["input"] for call in asked.calls] == ["Grüße", [3]]


@pytest.mark.parametrize("given", ["hello", "[1,", "@nowhere.json", "null", ""])
def test_input_that_is_not_json_is_a_usage_error(asked: Asked, given: str) -> None:
    result = run("digits", given, exits=2)
    assert "INPUT" in result.stderr
    assert asked.calls == []


def test_file_or_standard_input_that_is_no_text_is_sent_as_it_is(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    run("animals", "@cat.png")
    run("animals", "-", input=b"\xff\xfe")
    assert [call["input"] for call in asked.calls] == [b"\x89PNG", b"\xff\xfe"]


def test_raw_sends_a_text_file_as_bytes_too(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "drawing.svg").write_text("<svg/>")
    assert "--raw" in run("animals", "@drawing.svg", exits=2).stderr
    run("animals", "@drawing.svg", "--raw")
    run("animals", "-", "--raw", input="[1]")
    assert [call["input"] for call in asked.calls] == [b"<svg/>", b"[1]"]
    assert "@FILE" in run("animals", "[1]", "--raw", exits=2).stderr
    assert "--batch" in run("animals", "@drawing.svg", "--raw", "--batch", exits=2).stderr


def test_name_of_a_file_without_its_at_sign_is_told(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    assert "@cat.png" in run("animals", "cat.png", exits=2).stderr
    run("animals", "x" * 5000, exits=2)


def test_bare_text_is_told_how_to_quote(asked: Asked) -> None:
    assert "'\"hello\"'" in run("digits", "hello", exits=2).stderr


def test_batch_that_is_no_array_is_a_usage_error(asked: Asked) -> None:
    run("digits", "1", "--batch", exits=2)


def test_refused_input_exits_2(asked: Asked) -> None:
    assert "not doubles" in run("refusing", '"x"', exits=2).stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "file", "url"),
    [
        (["--port", "8080"], {"CLIPPERFS_URL": "http://elsewhere"}, "", "http://127.0.0.1:8080"),
        (["--url", "http://here:1"], {"CLIPPERFS_URL": "http://elsewhere"}, "", "http://here:1"),
        ([], {"CLIPPERFS_URL": "http://elsewhere"}, "port = 5", "http://elsewhere"),
        ([], {"CLIPPERFS_PORT": "6"}, "port = 5", "http://127.0.0.1:6"),
        ([], {}, "port = 5\nhost = '0.0.0.0'", "http://127.0.0.1:5"),
        ([], {}, "host = '::1'", "http://[::1]:1337"),
    ],
)
def test_daemon_is_the_one_that_flags_environment_and_file_name(
    asked: Asked, tmp_path: Path, arguments: list[str], environment: dict[str, str], file: str, url: str
) -> None:
    (tmp_path / "clipperfs.toml").write_text(file)
    run("digits", "[1]", *arguments, env=environment)
    assert asked.calls[0]["url"] == url


def test_both_url_and_port_is_a_usage_error(asked: Asked) -> None:
    run("digits", "[1]", "--url", "http://x", "--port", "1", exits=2)
