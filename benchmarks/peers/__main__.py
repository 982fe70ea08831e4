"""``python -m benchmarks.peers``: what ``make bench-peers`` runs."""

import sys

from benchmarks.peers.run import main

sys.exit(main())
