"""The options of a hook as a pydantic model: an unknown name or a value of the wrong type is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from clipperfs.documents.base import validation_summary
from clipperfs.errors import InvalidSetting


class Options(BaseModel):
    """Base of a hook's options: strict types, finite numbers, no unknown names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


OptionsT = TypeVar("OptionsT", bound=Options)


def parse_options(kind: type[OptionsT], hook: str, options: Mapping[str, Any]) -> OptionsT:
    """Return ``options`` as ``kind``. Raises InvalidSetting, which names the hook and the option."""
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        known = ", ".join([*kind.model_fields, "timeout_s"])
        raise InvalidSetting(
            f"hook {hook}: option {validation_summary(error)}", hint=f"options of {hook}: {known}"
        ) from error
