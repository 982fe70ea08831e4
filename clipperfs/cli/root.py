"""The root of the command line: which command lives where, and what becomes of an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from clipperfs import __version__
from clipperfs.cli import exit as exit_table
from clipperfs.cli.call import Call
from clipperfs.cli.frame import Group

SECTIONS = {
    "Publish": {
        "init": "clipperfs.cli.publish:init",
        "publish": "clipperfs.cli.publish:publish",
        "manifest": "clipperfs.cli.publish:manifest",
        "seal": "clipperfs.cli.publish:seal",
        "sign": "clipperfs.cli.key:sign",
        "verify": "clipperfs.cli.verify:verify",
        "doctor": "clipperfs.cli.doctor:doctor",
    },
    "Switch": {
        "activate": "clipperfs.cli.activate:activate",
        "rollback": "clipperfs.cli.activate:rollback",
        "rollout": "clipperfs.cli.rollout:rollout",
        "alias": "clipperfs.cli.pointer:alias",
        "pin": "clipperfs.cli.pointer:pin",
        "policy": "clipperfs.cli.policy:policy",
        "key": "clipperfs.cli.key:key",
        "permissions": "clipperfs.cli.permissions:permissions",
        "hook": "clipperfs.cli.hook:hook",
        "app": "clipperfs.cli.app:app",
    },
    "Look": {
        "list": "clipperfs.cli.show:list_models",
        "show": "clipperfs.cli.show:show",
        "history": "clipperfs.cli.history:history",
        "export": "clipperfs.cli.history:export",
        "diff": "clipperfs.cli.diff:diff",
    },
    "Clean up": {
        "retire": "clipperfs.cli.retire:retire",
        "delete": "clipperfs.cli.retire:delete",
        "gc": "clipperfs.cli.retire:gc",
    },
    "Serve": {
        "start": "clipperfs.cli.daemon:start",
        "stop": "clipperfs.cli.daemon:stop",
        "restart": "clipperfs.cli.restart:restart",
        "watch": "clipperfs.cli.daemon:watch",
        "reload": "clipperfs.cli.daemon:reload",
        "status": "clipperfs.cli.status:status",
        "logs": "clipperfs.cli.logs:logs",
        "top": "clipperfs.cli.top:top",
        "predict": "clipperfs.cli.predict:predict",
        "bench": "clipperfs.cli.bench:bench",
    },
    "Learn": {
        "demo": "clipperfs.cli.demo:demo",
    },
}


class Root(Group):
    """The group that turns every way to end into an exit code."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command line and exit. Takes what ``click.Group.main`` takes."""
        arguments = list(sys.argv[1:] if args is None else args)
        call = Call()
        call.json = "--json" in arguments  # known before parsing, which may fail
        extra["standalone_mode"] = False
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
        try:
            code = super().main(arguments, prog_name, obj=call, **extra) or exit_table.OK
        except Exception as error:
            from clipperfs.cli.failure import report

            code = report(error, call)
        except KeyboardInterrupt:
            code = exit_table.INTERRUPTED
        try:
            if sys.stdout is not None:  # a shell can close it
                sys.stdout.flush()
        except OSError:  # nobody reads any more, or the disk is full: the interpreter must not try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = code or exit_table.FAILED
        sys.exit(code)


@click.group("clipperfs", cls=Root, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="clipperfs %(version)s")
def clipperfs() -> None:
    """A model registry that is only files, and serving daemons that need nothing else.

    The registry is named by --registry, by CLIPPERFS_REGISTRY, or by clipperfs.toml in this folder or above.
    """
