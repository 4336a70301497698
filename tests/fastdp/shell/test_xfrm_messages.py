"""What the kernel is told of IPsec, byte for byte, and back."""

import errno
import os

import pytest

from fastdp.core.effects import Association
from fastdp.shell import xfrm
from fastdp.shell.xfrm_messages import (
    IN,
    OUT,
    Policy,
    State,
    decode_policy,
    decode_state,
    encode_policy,
    encode_policy_name,
    encode_state,
    encode_state_name,
)

PORT = 6784
KEY = bytes(range(36))
SENDING = Association(0x1234, KEY, "", "10.0.0.2")
RECEIVING = Association(0x1234, KEY, "10.0.0.1", "10.0.0.2")

SELECTOR_OUT = (
    "0a000002"
    + "00" * 12
    + "00" * 16  # to 10.0.0.2, from anywhere
    + "1a80ffff00000000"  # to port 6784
    + "0200200011000000"  # IPv4, 32 bits of the destination, UDP
    + "0000000000000000"
)


def test_an_association_for_sending_has_these_bytes() -> None:
    body = encode_state(SENDING, 7, PORT).hex()
    assert body[:112] == SELECTOR_OUT
    assert body[112:160] == "0a000002" + "00" * 12 + "00001234" + "32" + "000000"
    assert body[160:192] == "00" * 16, "from any of our addresses"
    assert body[192:256] == "ff" * 32, "for ever"
    assert body[416:448] == "070000000200000080" + "00" * 7
    aead = body[448 : 448 + 2 * 112]
    assert aead[:8] == "70001200"
    assert bytes.fromhex(aead[8:136]).rstrip(b"\0") == b"rfc4106(gcm(aes))"
    assert aead[136:152] == "2001000080000000"
    assert KEY.hex() in aead


@pytest.mark.parametrize(
    ("association", "state"),
    [
        (SENDING, State(7, 0x1234, "10.0.0.2", False)),
        (RECEIVING, State(7, 0x1234, "10.0.0.1", True)),
        (Association(1 << 31, KEY, "fd00::1", "fd00::2"), State(7, 1 << 31, "fd00::1", True)),
        (Association(300, KEY, "", "::ffff:10.0.0.2"), State(7, 300, "10.0.0.2", False)),
    ],
)
def test_an_association_is_recognised(association: Association, state: State) -> None:
    assert decode_state(encode_state(association, 7, PORT)) == state
    assert len(encode_state_name(state)) == 24


def test_a_policy_has_these_bytes_and_is_recognised() -> None:
    policy = Policy(OUT, "10.0.0.2", 7)
    body = encode_policy(policy, PORT)
    assert body.hex()[:112] == SELECTOR_OUT
    assert body.hex()[304:336] == "64000000000000000100000000000000"
    assert body.hex()[336:344] == "44000500"
    for each in (policy, Policy(IN, "10.0.0.2", 7), Policy(IN, "fd00::2", 1 << 31)):
        assert decode_policy(encode_policy(each, PORT), PORT) == each
        assert decode_policy(encode_policy(each, PORT), PORT + 1) is None
        assert encode_policy_name(each, PORT)[:56] == encode_policy(each, PORT)[:56]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.EPROTONOSUPPORT, "this kernel has no ESP"),
        (errno.ENOENT, "this kernel has no ESP with AES-GCM"),
        (errno.EPERM, "ESP needs root, or the capability CAP_NET_ADMIN"),
        (errno.ENOMEM, f"ESP was refused by this kernel: {os.strerror(errno.ENOMEM)}"),
    ],
)
def test_what_the_kernel_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, code: int, text: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(xfrm, "change", refuse)
    assert xfrm.why_not() == text
