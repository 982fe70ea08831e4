"""``model.yaml``, what a version's author says about it, and the settings that a manifest keeps of it."""

from __future__ import annotations

import json
from typing import Any, Literal

import yaml
from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from clipperfs.documents.base import Document, parse_json, validation_summary
from clipperfs.errors import InvalidDocument
from clipperfs.layout import path_problem
from clipperfs.limits import LIMITS

InputType = Literal["ints", "floats", "doubles", "bytes", "strings"]

INHERITED_FIELDS = (
    "wrapper",
    "input_type",
    "hooks",
    "sample",
    "max_batch",
    "fixed_batch",
    "batch_delay_ms",
    "idempotent",
)
"""What a version that leaves it out takes over from the version that is active (``registry_layout.md`` §7.3)."""


class WrapperSettings(Document):
    """Which wrapper loads a version: ``kind`` is an entry-point name; everything else is an option of that wrapper."""

    kind: str = Field(min_length=1, max_length=200)

    @property
    def options(self) -> dict[str, Any]:
        """Return what the author gave beside ``kind``."""
        return dict(self.model_extra or {})


class HookSettings(Document):
    """One hook to run before activation, with its options."""

    name: str = Field(min_length=1, max_length=200)
    options: dict[str, Any] = {}


class VersionSettings(Document):
    """What a manifest says about serving its version. ``None`` means: inherit from the version that is active."""

    wrapper: WrapperSettings | None = None
    input_type: InputType | None = None
    sample: list[Any] | str | None = None
    """Example inputs, or the path of a JSON file in the version that holds them."""
    hooks: list[HookSettings] | None = None
    requirements: str | None = None
    """Path of a requirements file in the version; informative."""
    max_batch: int | None = Field(default=None, ge=1, le=65536)
    fixed_batch: int | None = Field(default=None, ge=0, le=65536)
    """The most queries in a batch, whatever the SLO. ``None`` or 0: found by measuring."""
    batch_delay_ms: float | None = Field(default=None, ge=0, le=10_000)
    """How long a batch may wait for company. ``None`` or 0: not at all."""
    idempotent: bool | None = None
    """``False``: a batch whose replica died is not tried again on another."""
    description: str | None = None
    labels: dict[str, str] = {}

    @model_serializer(mode="wrap")
    def _without_absent_size(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Manifests from before there were fixed sizes are spelled as they were.
        tree: dict[str, Any] = serialize(self)
        if self.fixed_batch is None:
            tree.pop("fixed_batch", None)
        return tree

    @field_validator("wrapper", mode="before", json_schema_input_type=WrapperSettings | str | None)
    @classmethod
    def _wrapper_by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("hooks", mode="before", json_schema_input_type=list[HookSettings | str | dict[str, Any]] | None)
    @classmethod
    def _hooks_in_short(cls, value: Any) -> Any:
        return [hook_in_short(item) for item in value] if isinstance(value, list) else value

    @field_validator("sample", "requirements", mode="after")
    @classmethod
    def _path_is_inside(cls, value: Any) -> Any:
        if isinstance(value, str) and (problem := path_problem(value)) is not None:
            raise ValueError(f"path {value!r} {problem}")
        return value

    @field_validator("sample", mode="after")
    @classmethod
    def _sample_not_empty(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("a sample holds at least one input")
        return value


class AuthorFile(VersionSettings):
    """``model.yaml`` itself: the same fields, but a name it does not know is a mistake of a person, so it fails."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    @model_validator(mode="after")
    def _sizes_agree(self) -> AuthorFile:
        if self.fixed_batch and self.max_batch and self.fixed_batch > self.max_batch:
            raise ValueError(f"fixed_batch {self.fixed_batch} is more than max_batch {self.max_batch}")
        return self

    def settings(self) -> VersionSettings:
        """Return what the manifest keeps."""
        return VersionSettings.model_validate(self.model_dump())


def hook_in_short(item: Any) -> Any:
    """Turn ``smoke``, ``{latency: {p99_ms: 20}}`` or ``{command: [./check.sh]}`` into a name and options."""
    if isinstance(item, str):
        return {"name": item}
    if isinstance(item, dict) and len(item) == 1 and "name" not in item:
        [(name, options)] = item.items()
        if options is None:
            options = {}
        return {"name": name, "options": options if isinstance(options, dict) else {"value": options}}
    return item


def parse_author_file(data: bytes) -> AuthorFile:
    """Parse ``model.yaml``. Raises InvalidDocument, which names the field and the line where it can."""
    if len(data) > LIMITS.author_bytes:
        raise InvalidDocument(f"model.yaml: {len(data)} bytes are more than the limit of {LIMITS.author_bytes}")
    try:
        tree = yaml.load(data, Loader=_UniqueKeyLoader)  # noqa: S506  (a SafeLoader that also refuses duplicate keys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidDocument(f"model.yaml: not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise InvalidDocument("model.yaml: must be a mapping, such as 'wrapper: sklearn'")
    try:
        tree = parse_json(json.dumps(tree, allow_nan=False).encode(), limit_bytes=8 * LIMITS.author_bytes)
    except (TypeError, ValueError, RecursionError, InvalidDocument) as error:
        raise InvalidDocument(
            f"model.yaml: holds a value that a manifest cannot keep: {str(error)[:200]}",
            hint="put dates in quotes, and leave out .nan, .inf, !!binary and !!set",
        ) from error
    try:
        return AuthorFile.model_validate(tree)
    except ValidationError as error:
        raise InvalidDocument(f"model.yaml: {validation_summary(error)}", hint="see docs/model_yaml.md") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without code, aliases (a small file could otherwise grow without bound) or duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(set(map(str, keys))) != len(keys):
            raise yaml.YAMLError(f"a key appears twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def effective_settings(own: VersionSettings, inherited: dict[str, Any]) -> VersionSettings:
    """Return ``own`` with each field it leaves out filled from ``inherited``."""
    tree = own.model_dump()
    for name, value in inherited.items():
        if name in INHERITED_FIELDS and tree.get(name) is None:
            tree[name] = value
    return VersionSettings.model_validate(tree)


def inheritance(own: VersionSettings, active: VersionSettings | None) -> dict[str, Any]:
    """Return the fields that ``own`` leaves out and ``active`` has: what the pointer record keeps beside it.

    A sample in a file stays behind: its path would point into another version.
    """
    if active is None:
        return {}
    mine, theirs = own.model_dump(mode="json"), active.model_dump(mode="json")
    return {
        name: theirs[name]
        for name in INHERITED_FIELDS
        if mine.get(name) is None
        and theirs.get(name) is not None
        and not (name == "sample" and isinstance(theirs[name], str))
    }
