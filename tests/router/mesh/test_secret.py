import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.mesh.secret import (
    INSECURE_SECRET,
    TOKEN_PREFIX,
    Token,
    decode_secret,
    decode_token,
    encode_secret,
    encode_token,
    new_secret,
    secret_from_password,
)
from weavepy.base.errors import UsageError

SECRET = bytes(range(32))
TOKEN = "weavepy1-aeaacaqdaqcqmbyibefawdanbyhraeiscmkbkfqxdamrugy4dupb7keewqegwbyx"


def test_a_token_is_short_lower_case_and_the_same_for_ever() -> None:
    assert encode_token(SECRET) == TOKEN
    assert len(TOKEN) == len(TOKEN_PREFIX) + 64
    assert TOKEN.islower()


@given(st.binary(min_size=32, max_size=32), st.booleans())
def test_a_token_decodes_to_what_was_encoded(secret: bytes, encrypted: bool) -> None:
    assert decode_token(encode_token(secret, encrypted)) == Token(secret, encrypted)


def test_a_token_survives_what_terminals_and_mail_programs_do_to_it() -> None:
    assert decode_token(f"  {TOKEN[:30]}\n  {TOKEN[30:].upper()}\r\n").secret == SECRET


@pytest.mark.parametrize("position", range(len(TOKEN_PREFIX), len(TOKEN)))
def test_every_wrong_letter_is_noticed(position: int) -> None:
    wrong = "b" if TOKEN[position] == "a" else "a"
    with pytest.raises(UsageError, match="typing error"):
        decode_token(TOKEN[:position] + wrong + TOKEN[position + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        TOKEN[:-1],
        TOKEN + "a",
        TOKEN[:20] + TOKEN[21:],
        TOKEN[:20] + TOKEN[21] + TOKEN[20] + TOKEN[22:],
        TOKEN[:-1] + "0",
        TOKEN[:-1] + "é",
        TOKEN_PREFIX,
    ],
)
def test_cut_swapped_and_impossible_letters_are_noticed(text: str) -> None:
    with pytest.raises(UsageError, match="typing error"):
        decode_token(text)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "should begin with"),
        ("10.0.0.1", "should begin with"),
        ("weavepy join " + TOKEN, "should begin with"),
        ("weavepy2-" + TOKEN[9:], "same version"),
    ],
)
def test_what_is_no_token_of_ours_is_told_apart(text: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        decode_token(text)


@given(st.text(max_size=100) | st.text(max_size=80).map(lambda text: TOKEN_PREFIX + text))
def test_any_text_is_a_token_or_a_usage_error(text: str) -> None:
    try:
        decode_token(text)
    except UsageError:
        pass


def test_neither_errors_nor_representations_show_what_may_be_secret() -> None:
    with pytest.raises(UsageError) as caught:
        decode_token(TOKEN[:-1] + "a")
    assert TOKEN[9:20] not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        decode_secret(SECRET.hex()[:-2])
    assert SECRET.hex()[:10] not in str(caught.value)
    assert str(SECRET) not in repr(Token(SECRET, True))


def test_a_secret_file_holds_hex_digits_or_a_token() -> None:
    assert decode_secret(encode_secret(SECRET)) == SECRET
    assert decode_secret(SECRET.hex().upper() + "\n") == SECRET
    assert decode_secret(TOKEN + "\n") == SECRET


@pytest.mark.parametrize("text", ["", "password", "00" * 31, "zz" * 32, "11" * 33, "\udc80"])
def test_another_secret_file_is_refused_with_advice(text: str) -> None:
    with pytest.raises(UsageError, match="openssl rand -hex 32"):
        decode_secret(text)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, INSECURE_SECRET])
def test_a_secret_that_everybody_knows_is_refused(secret: bytes) -> None:
    with pytest.raises(UsageError, match="no secret"):
        decode_secret(secret.hex())


def test_a_token_of_an_insecure_mesh_is_no_secret_file() -> None:
    with pytest.raises(UsageError, match="--insecure"):
        decode_secret(encode_token(INSECURE_SECRET, encrypted=False))


def test_new_secrets_differ() -> None:
    assert len(new_secret()) == 32
    assert new_secret() != new_secret()


def test_a_password_gives_the_same_secret_on_every_host_for_ever() -> None:
    golden = "4e2f3476c27b8c85b6858218497b1606e9066be42a5077d47bbe8c9ebf0d52b0"
    assert secret_from_password("correct horse").hex() == golden
    assert secret_from_password("correct horse\n").hex() == golden


def test_two_ways_to_type_one_accent_give_one_secret() -> None:
    assert secret_from_password("\u00e9") == secret_from_password("e\u0301")


@pytest.mark.parametrize("password", ["", "\n", "\r\n"])
def test_an_empty_password_is_refused(password: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        secret_from_password(password)
