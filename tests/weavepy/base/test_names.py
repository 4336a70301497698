import pytest

from weavepy.base.errors import UsageError
from weavepy.base.names import is_peer_name, name_of_public_key, parse_peer_name


def test_a_name_follows_from_the_key_and_is_the_same_for_ever() -> None:
    assert name_of_public_key(bytes(32)) == name_of_public_key(bytes(32))
    assert name_of_public_key(bytes(32)) == "6d:50:61:3f:8e:9a"
    assert name_of_public_key(bytes(31) + b"\1") != name_of_public_key(bytes(32))


def test_names_are_recognised_whatever_the_case_they_were_typed_in() -> None:
    assert parse_peer_name(" 7A:0C:51:9e:22:D4 ") == "7a:0c:51:9e:22:d4"


@pytest.mark.parametrize(
    "text", ["", "7a:0c", "7a:0c:51:9e:22:d4:00", "host1", "7a-0c-51-9e-22-d4"]
)
def test_what_is_no_name_is_refused_with_a_hint(text: str) -> None:
    assert not is_peer_name(text)
    with pytest.raises(UsageError, match="status peers|six pairs"):
        parse_peer_name(text)
