"""A registry on Azure Blob Storage or Google Cloud Storage: one conditional write claims a name.

Azure: ``If-None-Match: *`` (adlfs, ``overwrite=False``); Google: ``ifGenerationMatch=0`` (gcsfs). Both in one request,
so that the content is whole or absent. Source: the two services' references for conditional headers and preconditions.
"""

from __future__ import annotations

from typing import Any

from clipperfs.store.base import Capabilities
from clipperfs.store.fsspec_store import FsspecStore

STORE_CLASSES = {"az": "azure", "abfs": "azure", "abfss": "azure", "gs": "gcs", "gcs": "gcs"}
"""Scheme → class."""


class ConditionalStore(FsspecStore):
    """Blobs or objects below one prefix. Credentials come from where adlfs and gcsfs look for them."""

    capabilities = Capabilities(exclusive_create=True, rename_folder=False, durable=True, native_events=False)

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.store_class = STORE_CLASSES[url.partition("://")[0]]
        self._may_write = True

    def create(self, key: str, data: bytes) -> bool:
        assert data, "an empty upload takes another way, which drops the condition"
        try:
            self._call("create", key, lambda: self._fs().pipe_file(self._path(key), data, mode="create"))
        except FileExistsError:
            return False
        return True

    def _write(self, key: str, data: bytes) -> None:
        self._fs().pipe_file(self._path(key), data, mode="overwrite")

    def _open_new(self, key: str) -> Any:
        return self._fs().open(self._path(key), "wb")  # there are no folders to be made
