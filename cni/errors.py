"""What a runtime is told when a verb fails: a number it understands, and a sentence for people.

1 to 99 are the specification's, from 100 they are ours.
"""

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
UNDECODABLE = 6
BAD_CONFIG = 7
TRY_AGAIN = 11
UNAVAILABLE = 50
LIMITED = 51
FAILED = 100
TAKEN = 101
NOT_AS_IT_SHOULD_BE = 102

OF_ROUTER = {
    "usage": BAD_CONFIG,
    "not-found": UNKNOWN_CONTAINER,
    "conflict": TAKEN,
    "not-ready": TRY_AGAIN,
    "timeout": TRY_AGAIN,
}
"""The codes of the router's `Failure`; any other is `FAILED`."""


class CniError(Exception):
    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
