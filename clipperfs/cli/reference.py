"""``docs/cli.md``, made of the commands themselves: ``python -m clipperfs.cli.reference > docs/cli.md``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

import click

from clipperfs.cli import exit as exit_table
from clipperfs.cli.root import SECTIONS, clipperfs

WIDTH = 100

HEAD = """# The command line

<!-- Made by `python -m clipperfs.cli.reference > docs/cli.md`. A test compares this page with the commands. -->

```
clipperfs [--registry URL] [--json] COMMAND …
```

`--registry`, `--json` and `--debug` may stand before or after the name of the command.

- **stdout is data, stderr is messages.** Progress bars are drawn on a terminal only, for work of 50 MB and more.
- **`--json`** prints one JSON document on stdout; `watch` and `logs` print one JSON object a line. A failure is one
  JSON document on stderr: `{"error": class, "message": …, "hint": …}` and the fields of that error. Scripts look at
  the exit code, then at the stream.
- Text from other people (names, reasons, log lines) is shown with control and bidirectional characters escaped.
- **Completion**: `eval "$(_CLIPPERFS_COMPLETE=bash_source clipperfs)"` in `~/.bashrc`; `zsh_source` and `fish_source`
  for those shells.
"""


SETTINGS = """A flag wins over the environment, the environment over the nearest `clipperfs.toml` in this folder or
above, and that over the default. A name that is not known fails, and the nearest one is named. Relative places in
a file begin at its folder. Lengths of time carry a unit (`us`, `ms`, `s`, `m`, `h`, `d`); a bare number is
milliseconds.

```toml
registry = "/srv/models"
port = 1337
models = ["digits", "fraud-eu"]
drain = "30s"
```
"""


def reference() -> str:
    """Return the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield HEAD
    yield "## Exit codes\n\n| code | meaning | errors |\n|---|---|---|"
    for code, meaning in exit_table.MEANINGS.items():
        kinds = ", ".join(f"`{kind.__name__}`" for kind, its in exit_table.CODES.items() if its == code)
        yield f"| {code} | {meaning} | {kinds} |"
    yield "\n## Settings\n"
    yield SETTINGS
    yield "| in the file | in the environment | meaning |\n|---|---|---|"
    for name, meaning in _settings():
        yield f"| `{name}` | `CLIPPERFS_{name.upper()}` | {meaning} |"
    root = click.Context(clipperfs, info_name="clipperfs")
    for heading, names in SECTIONS.items():
        yield f"\n## {heading}"
        for name in names:
            command = clipperfs.get_command(root, name)
            assert command is not None
            yield from _command(command, name, root)


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    yield f"\n### {context.command_path}\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            below = command.get_command(context, inner)
            assert below is not None
            yield from _command(below, inner, context)


def _settings() -> Iterator[tuple[str, str]]:
    """Yield each setting with the docstring below it, which only the source has."""
    from clipperfs.settings import Settings

    [body] = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            assert isinstance(below.value, ast.Constant)
            yield field.target.id, str(below.value.value).replace("``", "`")


if __name__ == "__main__":
    print(reference(), end="")
