"""The tour as a script: ``python demo.py [FOLDER]``, the same as ``clipperfs demo``."""

from __future__ import annotations

import sys
from pathlib import Path

from clipperfs import demo

if __name__ == "__main__":
    sys.exit(demo.main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
