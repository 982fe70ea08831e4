"""Settings: who decides, what a typo does, and where relative places begin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipperfs.errors import InvalidSetting
from clipperfs.settings import FILE_NAME, Settings, find_file


def resolve(folder: Path | None = None, *, environment: dict[str, str] | None = None, **flags: object) -> Settings:
    return Settings.resolve(flags, environment=environment or {}, folder=folder)


def write(folder: Path, text: str) -> Path:
    path = folder / FILE_NAME
    path.write_text(text)
    return path


def test_nothing_given_gives_defaults(tmp_path: Path) -> None:
    settings = resolve()
    assert (settings.registry, settings.port, settings.admin_port, settings.host) == (None, 1337, 1338, "127.0.0.1")
    assert settings.drain == 30.0


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    write(tmp_path, "port = 1\nadmin_port = 2\nhost = 'file'\n")
    environment = {"CLIPPERFS_PORT": "3", "CLIPPERFS_ADMIN_PORT": "4"}
    settings = resolve(tmp_path, environment=environment, port=5)
    assert (settings.port, settings.admin_port, settings.host, settings.frontends) == (5, 4, "file", 1)


def test_absent_flag_and_empty_variable_decide_nothing(tmp_path: Path) -> None:
    write(tmp_path, "port = 7\n")
    assert resolve(tmp_path, environment={"CLIPPERFS_PORT": ""}, port=None).port == 7


def test_file_is_found_upward_and_the_nearest_wins(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    write(tmp_path, "port = 1\n")
    assert resolve(inner).port == 1
    near = write(tmp_path / "a", "port = 2\n")
    assert resolve(inner).port == 2
    assert find_file(inner) == near


def test_relative_places_in_a_file_begin_at_its_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write(tmp_path, "registry = 'models'\nstate_dir = 'state'\n")
    settings = resolve(inner)
    assert settings.registry == str(tmp_path / "models")
    assert settings.state_dir == tmp_path / "state"


@pytest.mark.parametrize("url", ["file:///srv/models", "s3://bucket/models", "memory://x"])
def test_urls_in_a_file_stay_as_they_are(tmp_path: Path, url: str) -> None:
    write(tmp_path, f"registry = '{url}'\n")
    assert resolve(tmp_path).registry == url


def test_typo_in_the_file_fails_and_names_the_nearest_key(tmp_path: Path) -> None:
    path = write(tmp_path, "registy = '/srv/models'\n")
    with pytest.raises(InvalidSetting) as caught:
        resolve(tmp_path)
    assert "'registy'" in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint == "did you mean registry?"


def test_typo_in_the_environment_fails_and_names_the_nearest_variable() -> None:
    with pytest.raises(InvalidSetting) as caught:
        resolve(environment={"CLIPPERFS_REGISTY": "/srv/models"})
    assert caught.value.hint == "did you mean CLIPPERFS_REGISTRY?"


@pytest.mark.parametrize("name", ["CLIPPERFS_MODEL", "CLIPPERFS_CANDIDATE_PATH", "CLIPPERFS_HOOK", "CLIPPERFSX"])
def test_variables_of_other_programs_are_left_alone(name: str) -> None:
    assert resolve(environment={name: "x"}) == Settings()


def test_unknown_flag_fails() -> None:
    with pytest.raises(InvalidSetting):
        resolve(prt=1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("port = 'x'", "port"),
        ("port = 70000", "port"),
        ("drain = 'soon'", "drain"),
        ("frontends = 0", "frontends"),
        ("watch = 'perhaps'", "watch"),
        ("host = 1", "host"),
    ],
)
def test_value_that_does_not_fit_names_the_key_and_the_file(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidSetting) as caught:
        resolve(tmp_path)
    assert caught.value.message.startswith(f"{named} in {path}: ")


def test_value_that_does_not_fit_names_the_variable() -> None:
    with pytest.raises(InvalidSetting, match="CLIPPERFS_PORT in the environment"):
        resolve(environment={"CLIPPERFS_PORT": "http"})


def test_text_values_are_read_by_type() -> None:
    environment = {
        "CLIPPERFS_FRONTENDS": "auto",
        "CLIPPERFS_WATCH": "false",
        "CLIPPERFS_MODELS": "digits, fraud-eu",
        "CLIPPERFS_DRAIN": "1.5s",
    }
    settings = resolve(environment=environment)
    assert (settings.frontends, settings.watch, settings.models) == ("auto", False, ["digits", "fraud-eu"])
    assert settings.drain == 1.5
    assert resolve(environment={"CLIPPERFS_FRONTENDS": "3"}).frontends == 3


@pytest.mark.parametrize("data", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2\n"])
def test_file_that_is_not_toml_fails_and_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(data)
    with pytest.raises(InvalidSetting) as caught:
        resolve(tmp_path)
    assert str(tmp_path / FILE_NAME) in caught.value.message


def test_folder_of_that_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    assert find_file(tmp_path) is None or find_file(tmp_path) != tmp_path / FILE_NAME


def test_file_of_another_user_in_a_shared_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    path = write(shared, "port = 1\n")
    if os.getuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        monkeypatch.setattr("clipperfs.settings.os.getuid", lambda: 54321)
    with pytest.raises(InvalidSetting, match="another user"):
        resolve(shared)


def test_file_of_another_user_in_an_ordinary_folder_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "port = 1\n")
    if os.getuid() == 0:
        os.chown(path, 12345, 12345)
    assert resolve(tmp_path).port == 1
