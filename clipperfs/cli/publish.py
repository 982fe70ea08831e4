"""``init``, ``publish``, ``manifest`` and ``seal``: how files become versions."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import click

from clipperfs.cli.activate import reason_option
from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.outcome import activation_text
from clipperfs.cli.text import plural, short, size, visible
from clipperfs.cli.value import KIND

if TYPE_CHECKING:
    from clipperfs.initialise import Effort
    from clipperfs.registry import Published

wrapper_option = click.option(
    "--wrapper", type=KIND, metavar="KIND", help="Which wrapper loads it (see: clipperfs hook list)."
)
activate_option = click.option("--activate", is_flag=True, help="Run the hooks and make it the active version.")


@command(
    "init",
    short_help="Create a registry.",
    examples=["clipperfs init /srv/models", "clipperfs init --probe full", "clipperfs init --single-writer"],
)
@click.argument("url", required=False)
@click.option(
    "--probe",
    type=click.Choice(["full", "quick", "skip"]),
    help="How hard to try whether several writers are safe there. Default: full, and skip on local disks.",
)
@click.option("--single-writer", is_flag=True, help="Declare that at most one writer at a time will ever be at work.")
def init(call: Call, url: str | None, probe: Effort | None, single_writer: bool) -> None:
    """Create a registry at URL. Doing it again changes nothing.

    A filesystem on which more than one writer wins the same name is refused (exit 5), because history could be lost on
    it. With --single-writer it is taken; from then on every command that writes reminds you on stderr.
    """
    from clipperfs.registry import Registry

    options = call.registry_options()
    registry = Registry.init(url or call.registry_url(), probe=probe, single_writer=single_writer, **options)
    document = registry.describe()
    kind = f"{document.store_class}{', single-writer' if registry.workspace.is_single_writer else ''}"
    call.emit(
        {"url": registry.url, "registry": document}, f"registry {document.registry_id} at {registry.url} ({kind})"
    )


@command(
    "publish",
    short_help="Copy files into the registry as a version.",
    examples=[
        "clipperfs publish digits 1 ./model",
        "clipperfs publish digits 2 ./model --wrapper sklearn --activate --reason 'more data'",
    ],
)
@click.argument("model")
@click.argument("version")
@click.argument("path", type=click.Path())
@wrapper_option
@activate_option
@click.option("--sign-key", type=click.Path(), help="Sign it with the private key in this file.  [CLIPPERFS_SIGN_KEY]")
@click.option("--no-record", is_flag=True, help="Bring the files only: needs the right to publish, not to activate.")
@reason_option
def publish(
    call: Call,
    model: str,
    version: str,
    path: str,
    wrapper: str | None,
    activate: bool,
    sign_key: str | None,
    no_record: bool,
    reason: str | None,
) -> None:
    """Copy the file or folder PATH into the registry as VERSION of MODEL.

    Publishing is not activating, unless --activate is given or the model's policy says on-publish. Publishing the same
    files again under the same version changes nothing; other files are a conflict (exit 4). Nor does on-publish then
    bring back a version that another one has replaced since.

    Who may publish but not activate uses --no-record: a daemon adopts the version, or somebody who may runs 'seal'.
    """
    if no_record and activate:
        raise click.UsageError("--activate writes a record; it makes no sense with --no-record.")
    _note_unknown(call, wrapper)
    registry = call.registry(sign_key=sign_key)
    if no_record:
        brought = registry.bring(model, version, path, wrapper=wrapper)
        text = f"brought {model}/{version} (manifest {short(brought.manifest_digest)}); it is not recorded yet"
        call.emit(brought, f"{text}\nto record it: clipperfs seal {model} {version}; or a daemon adopts it")
        return
    published = registry.publish(model, version, path, wrapper=wrapper, activate=activate, reason=reason)
    call.emit(published, lambda: _published_text("published", published))


@command(
    "manifest",
    short_help="Prepare a local folder for a plain copy.",
    examples=["clipperfs manifest ./model --wrapper sklearn", "clipperfs manifest ./model --json"],
)
@click.argument("path", type=click.Path())
@wrapper_option
def manifest(call: Call, path: str, wrapper: str | None) -> None:
    """Write manifest.json into the local folder PATH, so that any plain copy of it publishes safely.

    Afterwards copy the folder to models/MODEL/versions/VERSION in the registry with cp, rsync or aws s3 cp: in whatever
    order the files arrive, the version is not served before it is complete.
    """
    _note_unknown(call, wrapper)
    from clipperfs.source import write_manifest
    from clipperfs.workspace import default_actor

    place, written = write_manifest(path, wrapper=wrapper, actor=call.settings().actor or default_actor())
    call.emit(written, f"{visible(place)} lists {plural(len(written.files), 'file')}, {size(written.size_bytes)}")


@command(
    "seal",
    short_help="Adopt a plain copy as a version.",
    examples=["clipperfs seal digits 3", "clipperfs seal digits 3 --wrapper onnx --activate"],
)
@click.argument("model")
@click.argument("version")
@wrapper_option
@activate_option
@reason_option
def seal(call: Call, model: str, version: str, wrapper: str | None, activate: bool, reason: str | None) -> None:
    """Adopt a plain copy: list what is there now if it came without a manifest, and record it as VERSION of MODEL."""
    _note_unknown(call, wrapper)
    published = call.registry().seal(model, version, wrapper=wrapper, activate=activate, reason=reason)
    call.emit(published, lambda: _published_text("sealed", published))


def _note_unknown(call: Call, wrapper: str | None) -> None:
    """Say that a wrapper is not installed here: it may be where the version will be served, or it may be a typo."""
    from clipperfs.plugins import plugin_names

    known = plugin_names("clipperfs.wrappers")
    if wrapper is not None and wrapper not in known:
        near = difflib.get_close_matches(wrapper, known, n=1)
        guess = f"; did you mean {near[0]}?" if near else f"; installed: {', '.join(known)}"
        call.say(f"note: no wrapper {visible(wrapper)} is installed on this host{guess}")


def _published_text(verb: str, published: Published) -> str:
    name = f"{published.model}/{published.version}"
    facts = f"manifest {short(published.manifest_digest)}, {size(published.size_bytes)}"
    lines = [f"{verb} {name} ({facts})"]
    if published.was_there:
        brought = verb == "sealed"  # a copy that came with its manifest
        lines = [f"{name} is recorded as it came ({facts})" if brought else f"{name} was there already ({facts})"]
    if published.activation is not None:
        lines.append(activation_text(published.model, published.activation))
    else:
        lines.append(f"to make it active: clipperfs activate {published.model} {published.version}")
    return "\n".join(lines)
