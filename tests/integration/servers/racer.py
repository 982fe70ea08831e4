"""A process that races others for slots of one log: ``racer.py BUCKET PREFIX ADDRESS NUMBER ROUNDS``.

It waits for a line on standard input before each round, and answers with one that says whether it won.
"""

from __future__ import annotations

import sys

from clipperfs.store.s3 import S3Store


def main() -> None:
    bucket, prefix, address, number, rounds = sys.argv[1:]
    store = S3Store(bucket, prefix, endpoint_url=address)
    assert store.read("warm", limit_bytes=9) is None
    print("ready", flush=True)
    for round_number in range(int(rounds)):
        sys.stdin.readline()
        won = store.create(f"log/{round_number + 1:020d}.json", number.encode() * 200)
        print("won" if won else "lost", flush=True)


main()
