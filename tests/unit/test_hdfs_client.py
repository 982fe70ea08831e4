"""Addresses on HDFS, and what a NameNode's exceptions mean."""

from __future__ import annotations

import pytest

from clipperfs.errors import InvalidSetting, StorageDenied, StorageError, StorageFull, StorageUnavailable
from clipperfs.store import canonical_url
from clipperfs.store.hdfs_client import HdfsStream, refusal


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("hdfs://node:8020/models", "hdfs://node:8020/models"),
        ("hdfs://cluster//team//models/", "hdfs://cluster/team/models"),
        ("hdfs://cluster", "hdfs://cluster/"),
        ("webhdfs://node:9870/a/./b", "webhdfs://node:9870/a/b"),
        ("hdfs://cluster/../..", "hdfs://cluster/"),
    ],
)
def test_address_has_one_spelling(given: str, spelled: str) -> None:
    assert canonical_url(given) == spelled
    assert canonical_url(spelled) == spelled


@pytest.mark.parametrize(
    "given",
    [
        "hdfs:///models", "hdfs://", "hdfs://me@node:8020/x", "webhdfs://node:9870/x?user.name=me", "hdfs://node/x#y",
        "hdfs://node:port/x", "webhdfs://node/x",
    ],
)  # fmt: skip
def test_address_without_a_place_or_with_a_user_is_refused(given: str) -> None:
    with pytest.raises(InvalidSetting):
        canonical_url(given)


@pytest.mark.parametrize(
    ("java_class", "message", "kind"),
    [
        ("org.apache.hadoop.fs.FileAlreadyExistsException", "rename destination /a already exists", FileExistsError),
        ("java.io.IOException", "Source /d and destination /f must both be directories", FileExistsError),
        ("java.io.FileNotFoundException", "rename source /a is not found.", FileNotFoundError),
        ("FileNotFoundException", "File does not exist: /a", FileNotFoundError),
        ("org.apache.hadoop.security.AccessControlException", "Permission denied: user=a, access=WRITE", StorageDenied),
        ("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", "The DiskSpace quota", StorageFull),
        ("NSQuotaExceededException", "The NameSpace quota", StorageFull),
        ("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "Cannot rename /a.", StorageUnavailable),
        ("org.apache.hadoop.ipc.StandbyException", "Operation category READ", StorageUnavailable),
        ("java.io.IOException", "File /a could only be replicated to 0 nodes", StorageUnavailable),
        (
            "org.apache.hadoop.security.AccessControlException",
            'Permission denied: user=a, access=EXECUTE, inode="/r/f":root:supergroup:-rw-r--r--',
            NotADirectoryError,
        ),
        (
            "org.apache.hadoop.security.AccessControlException",
            'Permission denied: user=a, access=EXECUTE, inode="/r":root:supergroup:drwx------',
            StorageDenied,
        ),
        ("org.apache.hadoop.fs.ParentNotDirectoryException", "/r/f (is not a directory)", NotADirectoryError),
        ("java.lang.IllegalStateException", "Current inode is not a directory", StorageError),
    ],
)
def test_refusal_of_a_namenode_means(java_class: str, message: str, kind: type[Exception]) -> None:
    assert type(refusal(java_class, message, "do it")) is kind


def test_refusal_names_the_lacking_right_and_drops_the_stack() -> None:
    text = "Permission denied: user=alice, access=WRITE, inode=x\\n\\tat org.apache"
    error = refusal("org.apache.hadoop.security.AccessControlException", text, "create /a")
    assert isinstance(error, StorageDenied)
    assert "alice lacks the right to WRITE" in (error.hint or "")
    assert "org.apache" not in error.message


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("size", [-1, 1, 3, 64, 10_000])
def test_stream_gives_every_byte_once_whatever_the_pieces(piece: int, size: int) -> None:
    data = bytes(range(256)) * 3
    rest = [data]
    shut: list[bool] = []

    def pull(wanted: int) -> bytes:
        taken, rest[0] = rest[0][: min(wanted, piece)], rest[0][min(wanted, piece) :]
        return taken

    with HdfsStream(pull, lambda: shut.append(True)) as stream:
        assert b"".join(iter(lambda: stream.read(size), b"")) == data
    assert shut == [True]
