"""JSON by the C half of the standard library's `json`, without its Python half.

`import json` brings `re` and `enum` along, and takes as long as a bare interpreter takes to start,
for every pod. The scanner and the string encoder in C are what `json` itself runs on; where an
interpreter has them not, it is `json`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BLANK = " \t\n\r"


def decode(data: bytes) -> "Any":
    """Raises `ValueError` for whatever is not one JSON value in UTF-8."""
    text = data.decode("utf-8").strip(_BLANK)
    try:
        from _json import make_scanner

        value, end = make_scanner(_Plain)(text, 0)  # type: ignore[arg-type]  # it reads attributes
        if end == len(text):
            return value
    except (ImportError, StopIteration, SystemError, ValueError, RecursionError):
        pass  # without its Python half, the scanner cannot say what is wrong
    return _decode_slowly(text)


def _decode_slowly(text: str) -> "Any":
    import json

    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def encode(value: object) -> str:
    """What was decoded, or made of the same types."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int() | float():
            return repr(value)
        case dict():
            return "{" + ",".join(f"{_string(k)}:{encode(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(encode, value)) + "]"
    raise AssertionError(type(value))


def _string(value: str) -> str:
    try:
        from _json import encode_basestring_ascii
    except ImportError:
        import json

        return json.dumps(value)
    return encode_basestring_ascii(value)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


class _Plain:
    """What the scanner wants to know."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = _refuse_constant
