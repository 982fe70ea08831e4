"""A queue into which a bucket tells of its changes (Amazon SQS): what it says is a hint, and may be lost or late.

Understands S3's own notifications, the same through SNS, and EventBridge's. The credentials come from where those of
the bucket do. Source: the Amazon S3 user guide, event message structure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from clipperfs.errors import InvalidSetting
from clipperfs.store.s3_error import s3_error

WAIT_S = 20
"""The longest that SQS lets a receiver wait."""
AT_ONCE = 10
_REGION = re.compile(r"(?:sqs\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.")


class EventQueue:
    """One queue, for one receiver: what one has taken no other hears of.

    Args:
        url: The queue's address, as SQS gives it.
        registry_url: ``s3://bucket/prefix``: events about other places are passed over.

    Raises InvalidSetting when one of them cannot be.
    """

    def __init__(self, url: str, registry_url: str) -> None:
        place, registry = urlsplit(url), urlsplit(registry_url)
        if place.scheme not in ("http", "https") or not place.netloc or not place.path.strip("/"):
            raise InvalidSetting(f"{url!a} is not the address of a queue", hint="give the queue's URL, as SQS shows it")
        if registry.scheme != "s3":
            raise InvalidSetting(
                "an event queue tells of a bucket, and this registry lies in none", setting="event_queue"
            )
        self.url = url
        self._bucket = registry.netloc
        self._prefix = f"{registry.path.strip('/')}/".lstrip("/")
        self._client: Any = None

    def receive(self) -> list[str]:
        """Wait for events for up to ``WAIT_S``; return the keys in the registry that they are about, and forget them.

        Raises StorageError.
        """
        try:
            client = self._opened()
            answer = client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=AT_ONCE, WaitTimeSeconds=WAIT_S)
            messages = answer.get("Messages", [])
            if messages:
                entries = [
                    {"Id": str(index), "ReceiptHandle": one["ReceiptHandle"]} for index, one in enumerate(messages)
                ]
                client.delete_message_batch(QueueUrl=self.url, Entries=entries)
        except Exception as error:
            raise s3_error(error, "read", "the event queue", self.url) from error
        named = (one for message in messages for one in objects_of(str(message.get("Body", ""))))
        return [
            name.removeprefix(self._prefix)
            for bucket, name in named
            if bucket == self._bucket and name.startswith(self._prefix)
        ]

    def _opened(self) -> Any:
        if self._client is None:
            from botocore.config import Config
            from botocore.session import get_session

            place, session = urlsplit(self.url), get_session()
            found = _REGION.match(place.hostname or "")
            region = found[1] if found else session.get_config_variable("region") or "us-east-1"
            settings = Config(connect_timeout=5, read_timeout=WAIT_S + 10, retries={"total_max_attempts": 1})
            self._client = session.create_client(
                "sqs", region_name=region, endpoint_url=f"{place.scheme}://{place.netloc}", config=settings
            )
        return self._client


def objects_of(body: str) -> Iterator[tuple[str, str]]:
    """Yield bucket and name of the objects that a message is about; nothing for one that is not understood. Pure."""
    tree = _parse(body)
    if isinstance(tree.get("Message"), str) and "Records" not in tree:  # through SNS
        tree = _parse(tree["Message"])
    records = tree.get("Records")
    for record in records if isinstance(records, list) else []:
        yield from _object_of(record.get("s3") if isinstance(record, dict) else None, quoted=True)
    yield from _object_of(tree.get("detail"), quoted=False)  # by EventBridge


def _object_of(told: Any, *, quoted: bool) -> Iterator[tuple[str, str]]:
    try:
        bucket, name = told["bucket"]["name"], told["object"]["key"]
    except (KeyError, TypeError):
        return
    if isinstance(bucket, str) and isinstance(name, str):
        yield bucket, unquote_plus(name) if quoted else name


def _parse(text: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}
