"""Numbers as people read them."""

_DECIMAL_PREFIXES = ("", "k", "M", "G", "T", "P")


def duration(seconds: float) -> str:
    """Return two units at most: "4 d 3 h", "2 m 5 s", "0.4 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    total = int(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} m {total % 60} s"
    if total < 86_400:
        return f"{total // 3600} h {total % 3600 // 60} m"
    return f"{total // 86_400} d {total % 86_400 // 3600} h"


def count(value: int, noun: str, plural: str = "") -> str:
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def size(value_bytes: int) -> str:
    """Return bytes with a decimal prefix: "512 B", "1.5 MB"."""
    value = float(value_bytes)
    for prefix in _DECIMAL_PREFIXES:
        if value < 999.95 or prefix == _DECIMAL_PREFIXES[-1]:
            return f"{value:.0f} B" if not prefix else f"{value:.1f} {prefix}B"
        value /= 1000
    raise AssertionError("the last prefix takes all that is left")


def milliseconds(value_ms: float | None) -> str:
    if value_ms is None or value_ms <= 0:
        return ""
    return f"{value_ms:.2f} ms" if value_ms < 10 else f"{value_ms:.0f} ms"


def percent(share: float) -> str:
    return f"{share * 100:.1f}%"
