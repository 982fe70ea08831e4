"""The JSON body of a predict request, by the type of its inputs. Apart, because msgspec must make the class itself."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

Value = TypeVar("Value")


class PredictBody(msgspec.Struct, Generic[Value], gc=False):
    """What a client sends. Unknown fields are passed over; of a field given twice the last counts."""

    input: Value | UnsetType = UNSET
    input_batch: list[Value] | UnsetType = UNSET
    version: str | None = None
    key: str | None = None
