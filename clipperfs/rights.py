"""The three rights that a storage can tell apart, and which of them a call needs. Pure.

    read      see and download: everything below ``models/<model>/``
    publish   bring versions and signatures: write below ``versions/`` and ``signatures/``; includes read
    activate  write the log, and with it decide what is served; includes publish

A storage sees names, not meanings: it cannot let somebody append a ``publish`` record and keep him from appending an
``activate`` record. So the right to publish does not reach the log, and what was brought with it alone is recorded by
a daemon that adopts, or by somebody who may activate (``publish --no-record``; ``seal``).
"""

from __future__ import annotations

from typing import Literal

Right = Literal["read", "publish", "activate"]

RIGHTS: tuple[Right, ...] = ("read", "publish", "activate")
"""From the least to the most; each includes those before it."""

_BRINGING = ("versions", "signatures")
SETTING_RIGHTS = "change the permissions of"
"""What stores call it. It is no right of ours, but the owner's and the superuser's."""

_READING = ("read", "open", "look at", "list", "fetch")


def needed_right(action: str, key: str) -> tuple[Right, str] | None:
    """Return which right on which model a storage call needs, or ``None`` when it is about no model.

    Args:
        action: what a store calls it in its errors, such as ``create``.
        key: the key, or an address that ends with it.
    """
    parts = key.split("/")
    if len(parts) < 2 or parts[0] != "models" or not parts[1]:
        return None
    if action in _READING:
        return "read", parts[1]
    if action == "delete" and parts[2:3] == ["log"]:
        return None  # no right of ours lets anybody do that
    is_bringing = len(parts) == 2 or parts[2] in _BRINGING
    return ("publish" if is_bringing else "activate"), parts[1]


def denial(action: str, key: str, problem: str) -> tuple[str, str, dict[str, str]] | None:
    """Return the message, the next step and the fields of a denied call about a model; ``None`` for any other call."""
    needed = needed_right(action, key)
    if needed is None:
        return None
    right, model = needed
    if action == SETTING_RIGHTS:
        message = f"only the owner of its files may set the rights on model {model}: {problem}"
        hint = (
            f"let the owner, or root, run the same command; 'clipperfs permissions {model}' shows who has which right"
        )
        return message, hint, {"model": model}
    message = f"you lack the right to {right} model {model}: {problem}"
    hint = f"ask its owner for the right to {right}; 'clipperfs permissions {model}' shows who has it"
    return message, hint, {"right": right, "model": model}
