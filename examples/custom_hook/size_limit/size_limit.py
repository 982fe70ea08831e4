#!/usr/bin/env python3
"""A check as a plain program, without clipperfs: a version is at most N times as large as the active one.

The hook ``command`` runs it like a hook of git. It reads one JSON document from standard input (registry, model,
``candidate`` and ``active``, each with its path and files); exit status 0 passes, any other refuses. What it prints may
be plain text, or JSON with ``reason``, ``measures`` and ``next_step``. Any language will do.
"""

import json
import sys


def main() -> int:
    """Compare the sizes; return the exit status."""
    times = float(sys.argv[1])
    request = json.load(sys.stdin)
    candidate, active = request["candidate"], request["active"]
    size = sum(file["size"] for file in candidate["files"])
    if active is None:  # the first version of this model
        print(f"{size} bytes; no version is active yet to compare with")
        return 0
    allowed = times * sum(file["size"] for file in active["files"])
    answer = {
        "reason": f"{size} bytes; {times:g} times version {active['version']} is {allowed:.0f}",
        "measures": {"size_bytes": size, "allowed_bytes": allowed},
    }
    if size > allowed:
        largest = max(candidate["files"], key=lambda file: file["size"])
        answer["next_step"] = f"see whether {largest['path']} with {largest['size']} bytes belongs into the version"
    print(json.dumps(answer))
    return 1 if size > allowed else 0


if __name__ == "__main__":
    sys.exit(main())
