"""Running nftables' language: a transaction in, a table out.

A script given to `nft -f -` takes effect whole or not at all, between two packets. That is
what everything in here rests on: rules are never half there.
"""

import ctypes
import json
import shutil
import subprocess
from typing import Any

from weavepy.kernel.kept import Kept
from weavepy.kernel.netlink import HostError, MissingRights

NFT_TIMEOUT_S = 20.0

LIBRARY = "libnftables.so.1"
"""What the program is made of; it is there wherever that is."""

OUTPUT_JSON = 1 << 4
"""NFT_CTX_OUTPUT_JSON."""


class NftMissing(HostError):
    """The program is not installed."""


class NftFailed(HostError):
    """nft, or the kernel behind it, refused a transaction; nothing of it took effect."""


def run_transaction(script: str) -> None:
    """In this process where the library is there: another costs more than most scripts do."""
    if _library is None:
        status, _, errors = _run_program(["-f", "-"], script)
    else:
        status, _, errors = _kept_context.get().run(script)
    if status != 0:
        raise failure(errors)


def list_table(family: str, table: str) -> list[dict[str, Any]] | None:
    """The table's objects as nft's JSON has them, or None if there is no such table."""
    status, output, errors = _list(["table", family, table])
    if status != 0:
        if "No such file or directory" in errors:
            return None
        raise failure(errors)
    try:
        objects: list[dict[str, Any]] = json.loads(output)["nftables"]
    except ValueError as error:
        raise NftFailed(f"nft lists {family} {table} in a way that is no JSON") from error
    return objects


def chain_policy(family: str, table: str, chain: str) -> str:
    """ "accept" or "drop"; empty if there is no such base chain, or it cannot be seen."""
    try:
        status, output, _ = _list(["chain", family, table, chain])
    except HostError:
        return ""
    if status != 0:
        return ""
    for entry in json.loads(output)["nftables"]:
        if "chain" in entry:
            return str(entry["chain"].get("policy", ""))
    return ""


def set_elements(
    objects: list[dict[str, Any]], name: str, kind: str = "set"
) -> list[tuple[Any, str]]:
    """The (value, comment) pairs of one set; a concatenation is a list, a prefix a dict.

    Of a map, each value is a list of what is mapped and to what.
    """
    for entry in objects:
        found = entry.get(kind)
        if found is not None and found["name"] == name:
            return [_element(element) for element in found.get("elem", [])]
    return []


def counters(objects: list[dict[str, Any]]) -> dict[str, int]:
    """Packets seen by each named counter."""
    found = (entry["counter"] for entry in objects if "counter" in entry)
    return {counter["name"]: counter["packets"] for counter in found}


def _element(element: Any) -> tuple[Any, str]:
    comment = ""
    if isinstance(element, dict) and "elem" in element:
        comment = element["elem"].get("comment", "")
        element = element["elem"]["val"]
    if isinstance(element, dict) and "concat" in element:
        element = element["concat"]
    return element, comment


def _list(what: list[str]) -> tuple[int, str, str]:
    """As JSON. What the library read for it is forgotten at once: it may be much."""
    command = ["list", *what]
    if _library is None:
        return _run_program(["-j", *command], "")
    return Context(OUTPUT_JSON).run(" ".join(command))


class Context:
    """The library's, with a connection to the network namespace of the thread that makes it."""

    def __init__(self, flags: int = 0) -> None:
        self._library = _library
        self._context = _library.nft_ctx_new(0)
        if self._context:
            _library.nft_ctx_buffer_output(self._context)
            _library.nft_ctx_buffer_error(self._context)
            _library.nft_ctx_output_set_flags(self._context, flags)

    def __del__(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)

    def run(self, commands: str) -> tuple[int, str, str]:
        """Status, output and errors, as the program's."""
        if not self._context:
            return 1, "", "Operation not permitted"
        status = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        return status & 0xFF, output.decode(), errors.decode()


def has_library() -> bool:
    return _library is not None


def _load_library() -> Any:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    pointer = ctypes.c_void_p
    library.nft_ctx_new.restype = pointer
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [pointer]
    library.nft_ctx_output_set_flags.argtypes = [pointer, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [pointer, ctypes.c_char_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [pointer]
        getattr(library, name).restype = ctypes.c_char_p
    return library


_library = _load_library()
_kept_context = Kept(Context)


def _run_program(arguments: list[str], script: str) -> tuple[int, str, str]:
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if program is None:
        raise NftMissing(
            "the program nft is missing, and without it containers could pose as each other: "
            "install the package nftables (`apt-get install nftables`)"
        )
    try:
        done = subprocess.run(
            [program, *arguments],
            input=script,
            capture_output=True,
            text=True,
            timeout=NFT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NftFailed(f"nft did not answer within {NFT_TIMEOUT_S:g} s") from error
    return done.returncode, done.stdout, done.stderr


def failure(errors: str) -> HostError:
    first = errors.strip().splitlines()[0] if errors.strip() else "without saying why"
    if "Operation not permitted" in errors:
        return MissingRights("changing packet filters: not permitted; run as root")
    return NftFailed(f"nft refused: {first} (see `weavepy doctor`)")
