"""Ask the daemon for the held-out rows and compare with the original: ``python compare.py URL APP EXPECTED.npz``."""

from __future__ import annotations

import sys

import numpy as np

from clipperfs.client import Client


def main(url: str, app: str, expected: str) -> int:
    """Print how far the served probabilities are from the original's; return 1 when that is more than rounding."""
    with np.load(expected) as arrays:
        rows, wanted = arrays["rows"], arrays["probabilities"]
    with Client(url) as client:
        replies = client.predict(app, batch=rows)
    late = [reply.default_explanation for reply in replies if reply.default]
    if late:
        print(f"{len(late)} of {len(rows)} got the default output: {late[0]}")
        return 1
    served = np.array([reply.output for reply in replies])
    difference = float(np.abs(served - wanted).max())
    same = int((served.argmax(axis=1) == wanted.argmax(axis=1)).sum())
    print(f"{len(rows)} rows: same digit in {same}; probabilities differ by {difference:.1e} at most")
    return 0 if same == len(rows) and difference < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
