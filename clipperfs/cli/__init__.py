"""The command line. Importing it costs nothing; :func:`main` is the console script."""

from __future__ import annotations


def main() -> None:
    """Run the command that ``sys.argv`` holds, and exit with its code (see ``clipperfs.cli.exit``)."""
    from clipperfs.cli.root import clipperfs

    clipperfs.main(prog_name="clipperfs")
