"""DELs that came while no router ran: one small file each, until a router has carried them out.

A DEL has to succeed without a router, as the runtime forgets the container then. So the plugin
writes it down, and the router reads it when it starts and now and then. An ADD of the same
attachment takes it back: the two never overlap, so what is written down is older.

An ADD whose answer was lost is written down, too, as it may have come half way. Its entry says when
it began: an attachment that was there before is not its work, and stays.

A file is written whole and under another name first, so that a reader finds all of it or nothing.
"""

import os

from cni import text

MAX_ENTRIES = 8192
"""A host has some hundred pods; more than this is a loop, and the runtime is told to try later."""

MAX_ENTRY_BYTES = 4096
KEYS = ("network", "container", "interface", "kind")
BEGUN = "begun"
"""Of the entry of an ADD: when it began, in seconds of the wall clock."""

_PREFIX = "del-"


class JournalFull(Exception):
    pass


def write(directory: str, entry: dict[str, str]) -> None:
    """On disk when this returns; raises `OSError` or `JournalFull`.

    A DEL stays what it is if an ADD of the same attachment gets lost before it is carried out.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if len(os.listdir(directory)) >= MAX_ENTRIES:
        raise JournalFull(f"{MAX_ENTRIES} DELs wait in {directory} for a router: start it")
    path = f"{directory}/{_name(entry)}"
    if BEGUN in entry and os.path.exists(path):
        return
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, text.encode(entry).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    _sync(directory)


def read(directory: str) -> list[dict[str, str]]:
    """What waits; files that nobody could have written whole are left out."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    entries = []
    for name in names:
        if not name.startswith(_PREFIX) or "." in name:
            continue
        try:
            with open(f"{directory}/{name}", "rb") as file:
                entry = text.decode(file.read(MAX_ENTRY_BYTES))
        except (OSError, ValueError):
            continue
        if isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in KEYS):
            entries.append(entry)
    return entries


def begun(entry: dict[str, str]) -> "float | None":
    """When the ADD began that got lost; None for a DEL."""
    try:
        return float(entry[BEGUN])
    except (KeyError, ValueError):
        return None


def forget(directory: str, entry: dict[str, str]) -> None:
    """It was carried out, or taken back; one that is not there is no error."""
    try:
        os.unlink(f"{directory}/{_name(entry)}")
    except FileNotFoundError:
        pass


def _name(entry: dict[str, str]) -> str:
    """The same for the same attachment, so repeated DELs are one file."""
    import _blake2

    identity = "/".join(entry[key] for key in KEYS)
    return _PREFIX + _blake2.blake2b(identity.encode(), digest_size=16).hexdigest()


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
