"""Where the mesh's secret comes from, and the one file that keeps it.

The file in the state directory holds the join token, whose checksum tells a damaged file from
another mesh. It is readable by its owner only, is written whole or not at all, and is never
replaced unless someone asked for exactly that: a router that forgot its secret could not find
back to its mesh.
"""

import os
import stat
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from router.mesh.secret import (
    INSECURE_SECRET,
    TOKEN_PREFIX,
    decode_secret,
    decode_token,
    encode_token,
    new_secret,
    secret_from_password,
)
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.settings import Directories

STDIN = "-"
"""The file name that stands for standard input."""

MAX_SECRET_FILE_BYTES = 4096
"""A password or token has some dozens of bytes; more is the wrong file."""


class SecretConflict(WeavepyError):
    """This host already has the secret of another mesh."""


class SecretUnusable(WeavepyError):
    """The stored secret cannot be read, written or understood."""


@dataclass(frozen=True, slots=True)
class MeshSecret:
    secret: bytes = field(repr=False)
    encrypted: bool = True
    origin: str = "stored"
    """One of "token", "password", "file", "stored", "created" or "insecure"."""

    @property
    def token(self) -> str:
        """What `weavepy join` takes on the next host."""
        return encode_token(self.secret, self.encrypted)

    def same_mesh(self, other: "MeshSecret") -> bool:
        return (self.secret, self.encrypted) == (other.secret, other.encrypted)


def resolve_secret(
    where: Directories,
    *,
    password_file: str | None = None,
    secret_file: str | None = None,
    insecure: bool = False,
) -> MeshSecret:
    """Return the secret to launch with: the one asked for, else the stored, else a new one.

    A secret that was asked for is used for this launch and not stored.
    """
    sources = {
        "--password-file": password_file is not None,
        "--secret-file": secret_file is not None,
        "--insecure": insecure,
    }
    asked = [flag for flag, given in sources.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} exclude each other: give one of them")
    if insecure:
        return MeshSecret(INSECURE_SECRET, encrypted=False, origin="insecure")
    if password_file is not None:
        password = read_line(password_file, "password")
        return MeshSecret(secret_from_password(password), origin="password")
    if secret_file is not None:
        return MeshSecret(decode_secret(read_line(secret_file, "secret")), origin="file")
    return load_secret(where) or create_secret(where)


def secret_of_token(text: str) -> MeshSecret:
    """Raises `UsageError` if this is no join token."""
    token = decode_token(text)
    if not token.encrypted:
        return MeshSecret(INSECURE_SECRET, encrypted=False, origin="insecure")
    return MeshSecret(token.secret, origin="token")


def load_secret(where: Directories) -> MeshSecret | None:
    """Return the stored secret, or None if this host has none yet."""
    path = where.secret_file
    try:
        text = path.read_text("utf-8").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SecretUnusable(f"cannot read the secret of this mesh in {path}: {error}") from error
    if mode & 0o077:
        raise SecretUnusable(
            f"the secret of this mesh in {path} is open to other users (mode {mode:04o}):"
            f" `chmod 600 {path}`, and think about who may have read it"
        )
    try:
        if text.startswith(TOKEN_PREFIX):
            token = decode_token(text)
            return MeshSecret(token.secret, encrypted=token.encrypted)
        return MeshSecret(decode_secret(text))
    except UsageError as error:
        raise SecretUnusable(
            f"the secret of this mesh in {path} is damaged: put it back with `weavepy join"
            " --replace TOKEN HOST`"
        ) from error


def create_secret(where: Directories) -> MeshSecret:
    """Make and store a secret, or return the one that another launch stored meanwhile."""
    created = MeshSecret(new_secret(), origin="created")
    if _write(where, created, replace=False):
        return created
    stored = load_secret(where)
    assert stored is not None
    return stored


def store_secret(where: Directories, wanted: MeshSecret, *, replace: bool = False) -> None:
    """Keep this secret; raises `SecretConflict` if another is kept and `replace` is not set."""
    try:
        stored = load_secret(where)
    except SecretUnusable:
        if not replace:
            raise
        stored = None
    if stored is not None and stored.same_mesh(wanted):
        return
    if not _write(where, wanted, replace=replace):
        raise SecretConflict(
            f"this host has the secret of another mesh ({where.secret_file}): leave that mesh with"
            " `weavepy reset`, then join with --replace"
        )


def read_line(source: str, what: str) -> str:
    """Read a file, or standard input ("-"), that holds one line."""
    try:
        if source == STDIN:
            data = sys.stdin.buffer.read(MAX_SECRET_FILE_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        raise WeavepyError(
            f"cannot read the {what} from {_named(source)}: {error.strerror}"
        ) from error
    if len(data) > MAX_SECRET_FILE_BYTES:
        raise UsageError(f"{_named(source)} is too long to hold a {what}")
    try:
        line = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{_named(source)} is not UTF-8 text") from error
    if not line:
        raise UsageError(f"{_named(source)} is empty: expected one line with the {what}")
    if "\n" in line:
        raise UsageError(f"{_named(source)} has several lines: expected one with the {what}")
    return line


def _write(where: Directories, secret: MeshSecret, *, replace: bool) -> bool:
    """Write the file whole, or leave it; returns False if there is one and it stays."""
    path = where.secret_file
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".secret-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{secret.token}\n")
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        raise SecretUnusable(
            f"cannot store the secret of this mesh in {path}: {error.strerror}"
        ) from error
    return True


def _sync_directory(path: Path) -> None:
    """Make the new name survive a power cut as well as the file's content."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _named(source: str) -> str:
    return "standard input" if source == STDIN else source
