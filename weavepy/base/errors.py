"""The two kinds of wrong that are raised; the third kind, our own bugs, is `assert`.

A `ProtocolError` is the peer's fault: its connection closes and the text is shown
to operators on this side. A `WeavepyError` is the caller's or the world's fault:
its text says what to do, and it is shown to whoever asked.
"""


class WeavepyError(Exception):
    """The caller or the world is wrong; `str(error)` is one line that says what to do.

    `exit_code` is what the command line exits with: 1 for "it failed", 2 for "asked wrongly".
    """

    exit_code = 1


class UsageError(WeavepyError):
    """What was asked cannot be meant: a malformed address, an unknown option value."""

    exit_code = 2


class ProtocolError(Exception):
    """A peer sent what no correct peer sends. The connection it came on is closed."""
