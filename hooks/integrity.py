"""``integrity``: the files are exactly those that the manifest lists, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipperfs.checking.copies import copy_problems
from clipperfs.checking.options import Options, parse_options
from clipperfs.documents import Verdict
from clipperfs.hook import HookContext


class Integrity:
    """Hashes the candidate's private copy: every size and SHA-256 as listed, nothing more, no links, no devices."""

    name = "integrity"

    def __init__(self, options: Mapping[str, Any]) -> None:
        parse_options(Options, self.name, options)

    def check(self, context: HookContext) -> Verdict:
        """Compare the candidate's files with its manifest."""
        candidate = context.candidate
        problems = copy_problems(candidate.path, candidate.manifest, candidate.manifest_digest)
        count = len(candidate.manifest.files)
        measures = {"files": count, "size_bytes": candidate.manifest.size_bytes}
        if not problems:
            return Verdict(
                hook=self.name,
                outcome="passed",
                reason=f"All {count} files of this host's copy have the size and SHA-256 that the manifest lists.",
                measures=measures,
            )
        shown = "; ".join(problems[:5]) + (f" (and {len(problems) - 5} more)" if len(problems) > 5 else "")
        return Verdict(
            hook=self.name,
            outcome="refused",
            reason=f"The files are not those that the manifest lists: {shown}.",
            next_step="run it again: the copy is then fetched anew; if it is refused again, the registry's files are "
            f"damaged: clipperfs verify {candidate.model}/{candidate.version}, and publish under a new version name",
            measures={**measures, "problems": len(problems)},
        )
