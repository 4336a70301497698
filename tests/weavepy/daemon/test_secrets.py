"""The secret's file and its other sources."""

import io
import os
import stat
from pathlib import Path

import pytest

from router.mesh.secret import INSECURE_SECRET, encode_secret, encode_token
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.base.settings import Directories
from weavepy.daemon import secrets
from weavepy.daemon.secrets import (
    MeshSecret,
    SecretConflict,
    SecretUnusable,
    create_secret,
    load_secret,
    resolve_secret,
    secret_of_token,
    store_secret,
)

OURS = bytes(range(32))
THEIRS = bytes(range(32, 64))


@pytest.fixture
def where(tmp_path: Path) -> Directories:
    return Directories(run=tmp_path / "run", state=tmp_path / "state")


def test_the_first_launch_makes_a_secret_and_the_second_finds_it(where: Directories) -> None:
    first, second = resolve_secret(where), resolve_secret(where)
    assert (first.origin, second.origin) == ("created", "stored")
    assert first.same_mesh(second)
    assert len(first.secret) == 32


def test_only_the_owner_can_read_the_file_and_nothing_is_left_beside_it(where: Directories) -> None:
    create_secret(where)
    assert stat.S_IMODE(where.secret_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(where.state.stat().st_mode) == 0o700
    assert os.listdir(where.state) == ["secret"]


def test_two_first_launches_agree(where: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other launch stored its secret between our look and our write."""
    store_secret(where, MeshSecret(THEIRS))
    assert create_secret(where).secret == THEIRS


def test_another_secret_is_replaced_only_on_demand(where: Directories) -> None:
    store_secret(where, MeshSecret(OURS))
    store_secret(where, MeshSecret(OURS))
    with pytest.raises(SecretConflict, match="--replace"):
        store_secret(where, MeshSecret(THEIRS))
    with pytest.raises(SecretConflict):
        store_secret(where, MeshSecret(OURS, encrypted=False))
    stored = load_secret(where)
    assert stored is not None
    assert stored.secret == OURS
    store_secret(where, MeshSecret(THEIRS), replace=True)
    stored = load_secret(where)
    assert stored is not None
    assert stored.secret == THEIRS


def test_a_damaged_file_is_not_taken_for_another_mesh(where: Directories) -> None:
    store_secret(where, MeshSecret(OURS))
    where.secret_file.write_text(where.secret_file.read_text()[:-9])
    with pytest.raises(SecretUnusable, match="damaged.*join --replace"):
        resolve_secret(where)
    with pytest.raises(SecretUnusable):
        store_secret(where, MeshSecret(OURS))
    store_secret(where, MeshSecret(OURS), replace=True)
    assert resolve_secret(where).secret == OURS


def test_a_file_that_others_can_read_is_refused(where: Directories) -> None:
    store_secret(where, MeshSecret(OURS))
    where.secret_file.chmod(0o640)
    with pytest.raises(SecretUnusable, match="chmod 600"):
        load_secret(where)


def test_a_hand_made_file_of_hex_digits_is_understood(where: Directories) -> None:
    where.state.mkdir()
    where.secret_file.write_text(encode_secret(OURS))
    where.secret_file.chmod(0o600)
    assert resolve_secret(where).secret == OURS


def test_an_insecure_mesh_is_remembered_as_such(where: Directories) -> None:
    store_secret(where, secret_of_token(encode_token(INSECURE_SECRET, encrypted=False)))
    stored = load_secret(where)
    assert stored is not None
    assert not stored.encrypted


def test_given_secrets_are_used_and_not_stored(where: Directories, tmp_path: Path) -> None:
    password, token = tmp_path / "password", tmp_path / "token"
    password.write_text("correct horse\n")
    token.write_text(encode_token(OURS) + "\n")
    by_password = resolve_secret(where, password_file=str(password))
    by_file = resolve_secret(where, secret_file=str(token))
    insecure = resolve_secret(where, insecure=True)
    assert (by_password.origin, len(by_password.secret)) == ("password", 32)
    assert (by_file.origin, by_file.secret) == ("file", OURS)
    assert (insecure.secret, insecure.encrypted) == (INSECURE_SECRET, False)
    assert not where.state.exists()


def test_standard_input_is_a_source(where: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(encode_secret(OURS).encode())))
    assert resolve_secret(where, secret_file="-").secret == OURS


def test_one_source_at_a_time(where: Directories) -> None:
    with pytest.raises(UsageError, match="--password-file and --insecure exclude"):
        resolve_secret(where, password_file="x", insecure=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"one\ntwo\n", "several lines"),
        (b"x" * 5000, "too long"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_that_holds_no_password_is_refused(
    where: Directories, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        resolve_secret(where, password_file=str(file))


def test_a_missing_file_is_named(where: Directories) -> None:
    with pytest.raises(WeavepyError, match="cannot read the password from /nowhere/file"):
        resolve_secret(where, password_file="/nowhere/file")


def test_a_state_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where = Directories(run=tmp_path, state=tmp_path / "file" / "state")
    with pytest.raises(SecretUnusable):
        resolve_secret(where)


def test_no_representation_shows_a_secret() -> None:
    assert OURS.hex() not in repr(MeshSecret(OURS))
    assert repr(OURS) not in repr(MeshSecret(OURS))
    assert secrets.MeshSecret.__dataclass_fields__["secret"].repr is False
