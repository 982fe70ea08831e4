"""Held-out rows: inputs with their labels, from ``.npz`` or ``.json``, never by unpickling."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipperfs.checking.sample import parse_json_bytes, read_version_file
from clipperfs.digest import Digest, digest_bytes
from clipperfs.errors import DamagedVersion, InvalidSetting

DEFAULT_FILES = ("holdout.npz", "holdout.json")
MAX_ROWS_BYTES = 2 << 30
"""Of the file, and of what an ``.npz`` unpacks to."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs as they go to a wrapper, and the label of each."""

    inputs: list[Any]
    labels: list[Any]
    sha256: Digest
    """Of the file that they were read from."""
    source: str


def read_rows(folder: Path, name: str, source: str) -> Rows:
    """Read the rows in file ``name`` of ``folder``.

    ``.npz`` holds arrays ``x`` (one row an input; what is deeper is flattened) and ``y``; ``.json`` holds
    ``{"inputs": […], "labels": […]}``.

    Raises:
        DamagedVersion: absent, too large, another format, or not one label for each input.
    """
    data = read_version_file(folder, name, noun="rows", limit_bytes=MAX_ROWS_BYTES)
    inputs, labels = _from_json(data, source) if name.endswith(".json") else _from_npz(data, source)
    if not inputs or len(inputs) != len(labels):
        raise DamagedVersion(
            f"rows file {source} has {len(inputs)} inputs and {len(labels)} labels",
            hint="give one label for each input, and at least one of them",
        )
    return Rows(inputs, labels, digest_bytes(data), source)


def local_rows(url: str) -> tuple[Path, str]:
    """Return folder and file name of ``rows_url``: an absolute path, or a ``file://`` URL. Raises InvalidSetting."""
    scheme, separator, rest = url.partition("://")
    path = Path(rest if separator else url)
    if (separator and scheme != "file") or not path.is_absolute() or not path.name:
        raise InvalidSetting(
            f"hook quality: option rows_url: {url!r} is neither an absolute path nor a file:// URL",
            hint="put the rows where every host that activates can read them as a file",
        )
    return path.parent, path.name


def _from_npz(data: bytes, source: str) -> tuple[list[Any], list[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked_bytes = sum(member.file_size for member in archive.infolist())
        if unpacked_bytes > MAX_ROWS_BYTES:
            raise DamagedVersion(f"rows file {source} unpacks to {unpacked_bytes} bytes; the limit is {MAX_ROWS_BYTES}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    except KeyError as error:
        raise DamagedVersion(
            f"rows file {source} has no array {error.args[0]}", hint="numpy.savez(…, x=…, y=…)"
        ) from error
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise DamagedVersion(
            f"rows file {source} is not an .npz of plain arrays: {error}",
            hint="save numbers or text, not objects: those would have to be unpickled",
        ) from error
    if x.ndim == 0 or y.ndim == 0:
        raise DamagedVersion(f"rows file {source}: x and y must have one row for each input")
    if x.dtype.kind in "US":
        return [str(item, "utf-8") if isinstance(item, bytes) else str(item) for item in x.tolist()], y.tolist()
    return list(x.reshape(len(x), -1)) if len(x) else [], y.tolist()


def _from_json(data: bytes, source: str) -> tuple[list[Any], list[Any]]:
    tree = parse_json_bytes(data, f"rows file {source}")
    inputs, labels = (tree.get("inputs"), tree.get("labels")) if isinstance(tree, dict) else (None, None)
    if not isinstance(inputs, list) or not isinstance(labels, list):
        raise DamagedVersion(f'rows file {source} must be {{"inputs": […], "labels": […]}}')
    return inputs, labels
