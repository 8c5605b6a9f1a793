"""How a refusal reads: one short, printable line, whatever the sender put into the bytes."""

from __future__ import annotations

from msgspec import MsgspecError

QUOTED_CHARACTERS_MAX = 200
"""Longest stretch of decoder text (it may quote a field name or tag of the sender's) in an error."""


class Unsound(ValueError):
    """Well typed, but not what its kind must be. Internal to the codec, which adds who said it and raises ``CodecError``."""

    def __init__(self, where: str, expected: str, found: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}")


BAD_BYTES = (MsgspecError, ValueError, RecursionError, OverflowError, MemoryError)
"""All that decoding raises on arbitrary bytes. Invalid UTF-8 is a plain ``UnicodeDecodeError``, nesting bombs a ``RecursionError``."""


def quoted(error: BaseException) -> str:
    """The error's text, printable and short; its two ends say what is wrong and where."""
    if isinstance(error, UnicodeDecodeError):
        return "invalid UTF-8"
    text = str(error) or type(error).__name__
    if len(text) > QUOTED_CHARACTERS_MAX:
        half = QUOTED_CHARACTERS_MAX // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else "?" for c in text)
