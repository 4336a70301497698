"""The small files of the state directory: the identity, and the targets to dial at the next start.

Each is replaced as a whole: written beside, synced, renamed. The secret's file belongs to
`weavepy.daemon.secrets`, ring and allocations to `ipam.shell.store`.
"""

import contextlib
import json
import logging
import os
from pathlib import Path

from router.mesh.identity import Identity
from weavepy.base.errors import WeavepyError

log = logging.getLogger(__name__)

MAX_REMEMBERED_TARGETS = 4096


def load_identity(path: Path) -> Identity:
    """Read the host's key pair; the first time, make it."""
    try:
        stored: bytes | None = path.read_bytes()
    except FileNotFoundError:
        stored = None
    except OSError as error:
        raise WeavepyError(f"cannot read {path}: {error.strerror}") from error
    try:
        identity = Identity.load_or_create(stored)
    except WeavepyError as error:
        raise WeavepyError(f"{path}: {error}") from error
    if stored is None:
        replace_file(path, identity.encode())
    return identity


def load_targets(path: Path) -> tuple[str, ...]:
    """What is unreadable is forgotten: targets are a convenience, and gossip finds them again."""
    try:
        stored = json.loads(path.read_text())
        return tuple(str(target) for target in stored[:MAX_REMEMBERED_TARGETS])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as error:
        log.warning("remembered peers in %s are unreadable: %s", path, error)
        return ()


def save_targets(path: Path, targets: tuple[str, ...]) -> None:
    try:
        replace_file(path, json.dumps(list(targets)).encode())
    except WeavepyError as error:
        log.warning("peers are not remembered: %s", error)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 so that either the old or the new one is there, whole."""
    beside = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise WeavepyError(f"cannot write {path}: {error.strerror}") from error
