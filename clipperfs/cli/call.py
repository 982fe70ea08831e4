"""One call of the command line: its global options, its settings, the registry it opens and where its output goes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from clipperfs.cli.text import visible

if TYPE_CHECKING:
    from clipperfs.registry import Registry
    from clipperfs.settings import Settings

NO_REGISTRY = """No registry is named. Give it in one of three ways:
  clipperfs --registry /srv/models COMMAND
  export CLIPPERFS_REGISTRY=/srv/models
  registry = "/srv/models"   in clipperfs.toml, here or in a folder above"""


class Call:
    """What the global options said, and what every command needs. Made once for each run; passed to every command."""

    def __init__(self) -> None:
        self.registry_flag: str | None = None
        self.json = False
        self.debug = False

    def settings(self, **flags: Any) -> Settings:
        """Return the settings: these flags and ``--registry`` > environment > ``clipperfs.toml`` > default."""
        from clipperfs.settings import Settings

        try:
            folder = Path.cwd()
        except OSError:  # the working folder has been deleted: there is no file to find above it
            folder = None
        return Settings.resolve({"registry": self.registry_flag, **flags}, environment=os.environ, folder=folder)

    def registry_url(self) -> str:
        """Return the address of the registry. Raises click.UsageError when nothing names one."""
        url = self.settings().registry
        if not url:
            raise click.UsageError(NO_REGISTRY)
        return url

    def registry(self, **flags: Any) -> Registry:
        """Open the registry that the settings name; ``flags`` are settings that were typed, such as ``sign_key``."""
        return self.open_registry(self.registry_url(), **flags)

    def open_registry(self, url: str, **flags: Any) -> Registry:
        """Open the registry at ``url`` with the cache, the actor and the keys that the settings name."""
        from clipperfs.registry import Registry

        return Registry(url, **self.registry_options(**flags))

    def registry_options(self, **flags: Any) -> dict[str, Any]:
        """Return what ``Registry`` takes beside its address."""
        from clipperfs.cli.progress import TerminalReporter

        settings = self.settings(**flags)
        return {
            "cache_dir": settings.cache_dir,
            "actor": settings.actor,
            "reporter": TerminalReporter(self),
            "sign_key": settings.sign_key,
            "trusted_keys": trusted_keys(settings),
        }

    def emit(self, document: Any, text: Callable[[], str] | str) -> None:
        """Print the command's result on stdout: the document under ``--json``, else the text (made only then)."""
        if self.json:
            click.echo(json.dumps(plain(document), indent=2, allow_nan=False))
            return
        shown = text if isinstance(text, str) else text()
        if shown:
            click.echo(shown)

    def emit_array(self, documents: Iterable[Any]) -> None:
        """Print an array on stdout, each element as soon as it is there: however many there are, one is held."""
        separator = "["
        for document in documents:
            click.echo(f"{separator}\n{json.dumps(plain(document), indent=2, allow_nan=False)}", nl=False)
            separator = ","
        click.echo("[]" if separator == "[" else "\n]")

    def emit_line(self, document: Any, text: str) -> None:
        """Print one element of a stream on stdout, at once: a JSON line under ``--json``, else the text."""
        click.echo(json.dumps(plain(document), allow_nan=False) if self.json else text)

    def say(self, text: str) -> None:
        """Tell a person something on stderr. Silent under ``--json``, where stderr is for one error document."""
        if not self.json:
            click.echo(text, err=True)


def trusted_keys(settings: Settings) -> dict[str, str] | None:
    """Return this host's own publishers, where the settings name a file of them. Raises InvalidSetting."""
    if settings.trusted_keys is None:
        return None
    from clipperfs.signing.key import parse_publishers, read_trusted_keys

    found = read_trusted_keys(settings.trusted_keys)
    parse_publishers(found)
    return found


def figures(value: Any) -> Any:
    """Return a dataclass of measured figures as data for JSON, with null where there was nothing to measure (NaN)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: figures(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: figures(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [figures(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def plain(value: Any) -> Any:
    """Return documents, dataclasses, paths and non-finite numbers as data that JSON can hold."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json", by_alias=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        finite = value - value == 0
        return value if finite else "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, PurePath):
        return str(value)
    return visible(value)
