from ipaddress import IPv4Address, IPv6Address

from router.shell.announce import announcement, checksum

MAC = "02:11:22:33:44:55"


def test_a_gratuitous_arp_is_a_broadcast_question_for_ones_own_address() -> None:
    frame = announcement(MAC, IPv4Address("10.32.0.1"))

    everyone, ourself, nobody, address = "ff" * 6, "021122334455", "00" * 6, "0a200001"
    ethernet = everyone + ourself + "0806"
    request = "0001" + "0800" + "06" + "04" + "0001"  # Ethernet, IPv4, their lengths, request
    assert frame.hex() == ethernet + request + ourself + address + nobody + address


def test_an_unsolicited_advertisement_tells_all_nodes_to_override() -> None:
    frame = announcement(MAC, IPv6Address("fd00::1"))

    assert frame[:14].hex() == "33330000000102112233445586dd"
    packet = frame[14:]
    assert packet[6:8].hex() == "3aff"  # ICMPv6, hop limit 255
    assert packet[8:24] == IPv6Address("fd00::1").packed
    assert packet[24:40] == IPv6Address("ff02::1").packed
    body = packet[40:]
    assert body[:2].hex() == "8800"
    assert body[4:8].hex() == "20000000"  # override, neither router nor solicited
    assert body[8:24] == IPv6Address("fd00::1").packed
    assert body[24:].hex() == "0201021122334455"
    pseudo_header = packet[8:40] + len(body).to_bytes(4, "big") + b"\0\0\0\x3a"
    assert checksum(pseudo_header + body) == 0  # as a receiver verifies it


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
