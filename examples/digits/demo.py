"""The tour as a script: ``python demo.py [FOLDER]``. The same as ``clipperfs demo``; the code is ``clipperfs/demo.py``."""

from __future__ import annotations

import sys
from pathlib import Path

from clipperfs import demo

if __name__ == "__main__":
    sys.exit(demo.main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
