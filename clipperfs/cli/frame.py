"""What every command shares: global options before or after its name, examples in its help, names close to a typo."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click

from clipperfs.cli.call import Call

pass_call = click.make_pass_decorator(Call, ensure=True)


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def store(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value:
            setattr(context.ensure_object(Call), name, value)
        return value

    return store


def global_options() -> list[click.Option]:
    """Return fresh copies of the options that every command and group takes."""
    shared: dict[str, Any] = {"expose_value": False, "is_eager": True}
    return [
        click.Option(
            ["--registry"],
            metavar="URL",
            help="The registry: a folder or a URL.  [CLIPPERFS_REGISTRY]",
            callback=_remember("registry_flag"),
            **shared,
        ),
        click.Option(
            ["--json"], is_flag=True, help="Print JSON, errors too (on stderr).", callback=_remember("json"), **shared
        ),
        click.Option(
            ["--debug"], is_flag=True, help="Show the traceback of an error.", callback=_remember("debug"), **shared
        ),
    ]


class Command(click.Command):
    """A command with the global options and with examples in its help."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        # click keeps the option that it makes for the first context: every context must want the same.
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.extend(global_options())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples below the options."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command. Its value is dropped: only ``ctx.exit`` sets an exit code."""
        super().invoke(ctx)


class Group(click.Group):
    """A group whose commands are imported when they are needed, shown under headings, and guessed from a typo."""

    def __init__(self, *args: Any, sections: dict[str, dict[str, str]] | None = None, **kwargs: Any) -> None:
        """Make the group.

        Args:
            sections: heading → command name → ``module:attribute``, in the order in which help shows them.
        """
        super().__init__(*args, **kwargs)
        self.sections = sections or {}
        self.params.extend(global_options())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name, in the order of the help."""
        return [name for section in self.sections.values() for name in section] + sorted(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or return ``None``."""
        for section in self.sections.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name].partition(":")
                command: click.Command = getattr(import_module(module), attribute)
                return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that ``args`` begins with. Raises click.UsageError, with the nearest names."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=2)
            guess = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading."""
        if not self.sections:
            super().format_commands(ctx, formatter)
        width = max((len(name) for section in self.sections.values() for name in section), default=0)
        for heading, section in self.sections.items():
            rows = []
            for name in section:
                command = self.get_command(ctx, name)
                assert command is not None
                rows.append((name.ljust(width), command.get_short_help_str(formatter.width - width - 6)))
            with formatter.section(heading):
                formatter.write_dl(rows)


def command(name: str, *, examples: Sequence[str], **kwargs: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a :class:`Command` of a function that takes the :class:`Call` first."""

    def decorate(function: Callable[..., Any]) -> Command:
        return click.command(name, cls=Command, examples=examples, **kwargs)(pass_call(function))

    return decorate
