import struct
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tests.weavepy.lab.conftest import needs_root
from weavepy.lab.echo import (
    Pair,
    decode_reply,
    encode_request,
    internet_checksum,
    ping_matrix,
    ping_series,
)
from weavepy.lab.plan import Plan
from weavepy.lab.system import run


def test_the_checksum_of_a_whole_request_is_zero() -> None:
    request = encode_request(0x1234, 7)
    assert internet_checksum(request) == 0
    assert internet_checksum(b"\x00\x01\xf2\x03\xf4\xf5\xf6\xf7") == 0x220D  # RFC 1071, section 3


@given(st.binary(max_size=100))
def test_decoding_any_packet_finds_a_reply_or_nothing(packet: bytes) -> None:
    reply = decode_reply(packet)
    assert reply is None or all(0 <= number < 65536 for number in reply)


def test_a_reply_is_recognised_behind_ip_options() -> None:
    packet = bytes([0x46]) + bytes(23) + struct.pack("!BBHHH", 0, 0, 0, 1, 2)
    assert decode_reply(packet) == (1, 2)
    assert decode_reply(packet[:24] + b"\x08" + packet[25:]) is None, "that is a request"


@needs_root
def test_those_who_are_there_answer_and_the_others_do_not(
    built: Callable[..., Plan],
) -> None:
    plan = built(hosts=3, containers=0, topology="chain")
    namespaces = {host.name: plan.namespace(host) for host in plan.host_nodes}
    pairs = [
        Pair("h1", "h2", "10.99.0.2"),
        Pair("h2", "h3", "10.99.0.6"),
        Pair("h3", "h2", "10.99.0.5"),
        Pair("h1", "h3", "10.99.0.6"),  # no route from there
    ]
    ping_matrix(namespaces, pairs, count=1)
    assert [pair.ok for pair in pairs] == [True, True, True, False]
    assert [pair.lost for pair in pairs] == [0, 0, 0, 1]
    assert all(pair.rtt_ms is None or 0 < pair.rtt_ms < 500 for pair in pairs)


@needs_root
def test_a_pair_is_done_with_its_first_answer_after_lost_requests(
    built: Callable[..., Plan],
) -> None:
    plan = built(hosts=2, containers=0)
    run(["ip", "-n", plan.wire, "link", "set", "l1-2", "down"])
    pairs = [Pair("h1", "h2", "10.99.0.2")]
    namespaces = {host.name: plan.namespace(host) for host in plan.host_nodes}
    ping_matrix(namespaces, pairs, count=2)
    assert (pairs[0].ok, pairs[0].lost) == (False, 2)


@needs_root
def test_a_series_counts_what_is_lost(built: Callable[..., Plan]) -> None:
    plan = built(hosts=2, containers=0)
    namespace = plan.namespace(plan.node("h1"))
    times = ping_series(namespace, "10.99.0.2", 20, 0.002)
    assert len(times) == 20
    assert None not in times
    run(["ip", "-n", plan.wire, "link", "set", "l1-2", "down"])
    assert ping_series(namespace, "10.99.0.2", 3, 0.01) == [None] * 3
