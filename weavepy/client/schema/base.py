"""What every request and answer is, and what those answer that fail or have nothing to say."""

import msgspec


class Struct(msgspec.Struct, kw_only=True):
    """A JSON object; unknown members are ignored."""


class Failure(Struct):
    """Why a request failed, as one line that says what to do."""

    code: str
    """One of "usage", "not-found", "conflict", "not-ready", "timeout", "internal"."""
    message: str


class Done(Struct):
    message: str
