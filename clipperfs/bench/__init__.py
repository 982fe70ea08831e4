"""``clipperfs bench``: queries at a fixed rate, their latencies from the moment each was due, and a report."""

from clipperfs.bench.load import LoadFailed, run_load
from clipperfs.bench.plan import LoadPlan, Loss, Reply, Sample
from clipperfs.bench.report import LoadReport, draw, summarise

__all__ = ["LoadFailed", "LoadPlan", "LoadReport", "Loss", "Reply", "Sample", "draw", "run_load", "summarise"]
