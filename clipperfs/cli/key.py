"""``key`` and ``sign``: publisher keys, whom a model trusts, and signatures of versions."""

from __future__ import annotations

from pathlib import Path

import click

from clipperfs.cli.activate import reason_option
from clipperfs.cli.call import Call
from clipperfs.cli.frame import Group, command
from clipperfs.cli.outcome import change_line
from clipperfs.cli.text import short, visible


@click.group("key", cls=Group, short_help="Publisher keys, and whom a model trusts.")
def key() -> None:
    """Publisher keys (ed25519), and the publishers whose signatures count for a model."""


@command("generate", examples=["clipperfs key generate ci", "clipperfs key generate ana --out ~/.keys/ana.pem"])
@click.argument("name")
@click.option("--out", type=click.Path(dir_okay=False), help="Where the private key goes.  [default: NAME.pem here]")
def generate(call: Call, name: str, out: str | None) -> None:
    """Make a key for the publisher NAME: the private key goes into a new file (mode 0600), the public one is printed.

    The line that is printed is what a file of trusted keys holds, and what 'key trust' takes. The private key is not
    encrypted: keep it where only its owner, or the CI job, can read it.
    """
    from clipperfs.names import publisher_name
    from clipperfs.signing.key import generate_key

    path = Path(out) if out is not None else Path(f"{publisher_name(name)}.pem")
    public = generate_key(path)
    call.say(f"private key in {visible(path)}")
    document = {"name": publisher_name(name), "key": str(public), "key_id": public.key_id, "file": str(path)}
    call.emit(document, f"{name} {public}")


@command("show", examples=["clipperfs key show ci.pem"])
@click.argument("file", type=click.Path())
def show(call: Call, file: str) -> None:
    """Print the public key that belongs to the private key in FILE, and its id. Needs no registry."""
    from clipperfs.signing.key import load_signer

    public = load_signer(file).public
    call.emit({"key": str(public), "key_id": public.key_id}, f"{public}\nkey id {public.key_id}")


@command(
    "trust",
    examples=[
        "clipperfs key trust digits ci ed25519:0J5eWJpYGDbPN1mUBoUc4a09yj3I2cC2B2ZPBC5uXFo=",
    ],
)
@click.argument("model")
@click.argument("name")
@click.argument("public_key", metavar="KEY")
@reason_option
def trust(call: Call, model: str, name: str, public_key: str, reason: str | None) -> None:
    """Let signatures by KEY count for MODEL, under the publisher's NAME. 'policy' then says whether one is needed."""
    outcome = call.registry().trust(model, name, public_key, reason=reason)
    call.emit(outcome, change_line(f"{model} trusts publisher {name}", outcome))


@command("untrust", examples=["clipperfs key untrust digits ci --reason 'the key leaked'"])
@click.argument("model")
@click.argument("name")
@reason_option
def untrust(call: Call, model: str, name: str, reason: str | None) -> None:
    """Let the signatures of publisher NAME count for MODEL no longer.

    What daemons have loaded stays loaded; nothing that only this publisher signed is loaded again.
    """
    outcome = call.registry().trust(model, name, None, reason=reason)
    call.emit(outcome, change_line(f"{model} no longer trusts publisher {name}", outcome))


@command(
    "sign",
    short_help="Vouch for a version with a publisher key.",
    examples=["clipperfs sign digits 2 --key ci.pem"],
)
@click.argument("model")
@click.argument("version")
@click.option("--key", "sign_key", type=click.Path(), help="File of the private key.  [CLIPPERFS_SIGN_KEY]")
def sign(call: Call, model: str, version: str, sign_key: str | None) -> None:
    """Compare every file of VERSION with its manifest, and put a signature beside it. Signing again changes nothing."""
    signed = call.registry(sign_key=sign_key).sign(model, version)
    done = f"{model}/{version} is signed with key {short(signed.key_id)}"
    call.emit(signed, visible(done if signed.changed else f"{done} already"))


for each in (generate, show, trust, untrust):
    key.add_command(each)
