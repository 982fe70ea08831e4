"""The settings of one command: one class, one file format (``clipperfs.toml``), one order of who decides.

Flag > environment > file > default. This module reads no environment by itself: the command line hands it over.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError

from clipperfs.durations import duration_s
from clipperfs.errors import ClipperfsError, InvalidSetting

FILE_NAME = "clipperfs.toml"
ENVIRONMENT_PREFIX = "CLIPPERFS_"


def _read_duration(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        try:
            return duration_s(value)
        except InvalidSetting as error:
            raise ValueError(str(error)) from error
    return value


def _read_names(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_read_duration)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseModel):
    """Everything that a flag, a ``CLIPPERFS_…`` variable or ``clipperfs.toml`` can set, under one name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    registry: str | None = None
    """Address of the registry: a folder, or a URL."""
    actor: str | None = Field(default=None, max_length=200)
    """Who acts, as records will say. Default: the user and the host."""
    cache_dir: Path | None = None
    """Where verified copies of versions are kept. Default: the user's cache folder."""
    cache_limit: ByteSize = ByteSize(20_000_000_000)
    """What the daemon lets the cache hold beside the versions in use, such as ``20GB``."""
    prediction_cache: ByteSize = ByteSize(64 * 1024 * 1024)
    """What each frontend's cache of predictions may hold, such as ``256MB``; ``0``: no cache."""
    max_body: Annotated[ByteSize, Field(ge=1024, le=1 << 30)] = ByteSize(16 * 1024 * 1024)
    """The largest body of a query, such as ``100MB``."""
    slow: Seconds | None = None
    """Queries that take longer than this (``20ms``) are logged. Default: those that miss their SLO."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Connections that each frontend of the daemon holds."""
    state_dir: Path | None = None
    """Where the daemon keeps its state and its log. Default: the user's state folder, one for each registry."""
    host: str = "127.0.0.1"
    """Address on which the daemon answers queries."""
    port: Port = 1337
    """Port on which the daemon answers queries."""
    admin_port: Port = 1338
    """Loopback port of the daemon's read-only admin pages."""
    frontends: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = 1
    """Frontend processes of the daemon; ``auto``: one for two processors, at most 8."""
    models: Annotated[list[str], BeforeValidator(_read_names)] | None = None
    """Models that the daemon serves. Default: all. In the environment: separated by commas."""
    event_queue: str | None = None
    """Address of a queue (SQS) of the daemon's own, into which the registry's bucket tells of its changes."""
    watch: bool = True
    """Whether the daemon follows the registry."""
    sign_key: Path | None = None
    """Private key that signs records and what is published. Default: nothing is signed."""
    trusted_keys: Path | None = None
    """File of publishers whose signature every version needs, whatever the policies say. Default: as policies say."""
    drain: Seconds = 30.0
    """How long ``stop`` lets the daemon finish what it has begun. Written with a unit (``30s``), held in seconds."""
    url: str | None = None
    """Address that ``predict`` asks. Default: the registry's daemon on this host, or else ``host`` and ``port``."""

    @classmethod
    def resolve(
        cls, flags: Mapping[str, Any], *, environment: Mapping[str, str], folder: str | os.PathLike[str] | None
    ) -> Settings:
        """Return the settings that hold for one command.

        Args:
            flags: what was typed, by field name; ``None`` means that it was not.
            environment: where ``CLIPPERFS_REGISTRY`` and its like are looked up; an empty value counts as absent.
            folder: where the search for ``clipperfs.toml`` begins, going up; ``None``: no file is read.

        Raises:
            InvalidSetting: a name is not known (the nearest one is named), a value does not fit, or the file is not
                TOML.
        """
        layers: list[tuple[str, dict[str, Any]]] = []
        path = find_file(folder) if folder is not None else None
        if path is not None:
            layers.append((str(path), read_file(path)))
        layers.append(("the environment", read_environment(environment)))
        layers.append(("the command line", {name: value for name, value in flags.items() if value is not None}))
        merged: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for source, values in layers:
            merged.update(values)
            origin.update(dict.fromkeys(values, source))
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            finding = error.errors()[0]
            name = str(finding["loc"][0])
            place = f"{name} in {origin[name]}"
            if origin[name] == "the environment":
                place = f"{ENVIRONMENT_PREFIX}{name.upper()} in the environment"
            elif origin[name] == "the command line":
                place = f"--{name.replace('_', '-')}"
            is_size = cls.model_fields[name].annotation is ByteSize if name in cls.model_fields else False
            raise InvalidSetting(
                f"{place}: {finding['msg'].removeprefix('Value error, ')}",
                hint="a size is a number of bytes, or has a unit: 500MB, 20GB, 64MiB" if is_size else None,
                setting=name,
                source=origin[name],
            ) from error


def find_file(folder: str | os.PathLike[str]) -> Path | None:
    """Return the nearest ``clipperfs.toml`` in ``folder`` or above it, or ``None``.

    Raises:
        InvalidSetting: it lies in a folder where everybody may write, such as ``/tmp``, and belongs to somebody else,
            who could otherwise choose which models this user runs.
    """
    start = Path(folder).absolute()
    for candidate in (start, *start.parents):
        path = candidate / FILE_NAME
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            is_shared = bool(candidate.stat().st_mode & stat.S_IWOTH)
        except OSError:
            continue
        if is_shared and status.st_uid not in (os.getuid(), 0):
            raise InvalidSetting(
                f"{path} belongs to another user and lies in a folder where everybody may write",
                hint="remove it, or work in a folder of your own",
                path=str(path),
            )
        return path
    return None


def read_file(path: Path) -> dict[str, Any]:
    """Return what a ``clipperfs.toml`` sets, with relative places made absolute from the file's folder.

    Raises:
        InvalidSetting: it cannot be read, is not TOML, or holds a name that is not known.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{path} cannot be read: {error}", path=str(path)) from error
    for name, value in values.items():
        if name not in Settings.model_fields:
            raise unknown_setting(name, str(path), list(Settings.model_fields))
        if name == "registry" and isinstance(value, str) and ":/" not in value:
            values[name] = str(path.parent / value)
        if name in ("cache_dir", "state_dir", "sign_key", "trusted_keys") and isinstance(value, str):
            values[name] = str(path.parent / Path(value).expanduser())
    return values


def read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what ``CLIPPERFS_…`` variables set, by field name.

    Raises:
        InvalidSetting: a variable is one slip away from a known name. Others are left alone: they may belong to hooks
            or to programs around this one.
    """
    values = {}
    known = [ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields]
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or not value:
            continue
        if variable in known:
            values[variable.removeprefix(ENVIRONMENT_PREFIX).lower()] = value
        elif variable + "S" not in known and difflib.get_close_matches(variable, known, n=1, cutoff=0.93):
            raise unknown_setting(variable, "the environment", known)
    return values


def unknown_setting(name: str, source: str, known: list[str]) -> ClipperfsError:
    """Return the error about a name that is not known, with the nearest known one as its hint."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
    return InvalidSetting(f"no setting is called {name!a} ({source})", hint=hint, setting=name, source=source)
