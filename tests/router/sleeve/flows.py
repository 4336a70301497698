"""A plain model of what the kernel's segmentation does, written without looking at `pieces`.

A `Flow` can be asked for its large frame (as a TAP with offloads hands it over) and for each of
the segments that belong on a wire. `as_kernel` takes a frame with its virtio header, as it is
written to a TAP, and returns the segments that would leave the kernel.
"""

import struct
from dataclasses import dataclass

TCP, UDP = 6, 17
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071, the slow and obvious way."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Flow:
    payload: bytes
    mss: int
    ipv6: bool = False
    protocol: int = TCP
    vlan_tags: int = 0
    ip_options: bytes = b""
    """A multiple of 4 bytes; IPv4 only."""
    tcp_options: bytes = b""
    sequence: int = 1000
    identification: int = 7
    flags: int = ACK

    @property
    def ip_at(self) -> int:
        return 14 + 4 * self.vlan_tags

    @property
    def transport_at(self) -> int:
        return self.ip_at + (40 if self.ipv6 else 20 + len(self.ip_options))

    @property
    def count(self) -> int:
        return -(-len(self.payload) // self.mss)

    @property
    def gso_type(self) -> int:
        if self.protocol == UDP:
            return 5
        return (4 if self.ipv6 else 1) | (0x80 if self.flags & CWR else 0)

    @property
    def checksum_offset(self) -> int:
        return 16 if self.protocol == TCP else 6

    def large(self) -> bytes:
        return self._frame(self.payload, 0, self.flags, partial=True)

    def segment(self, number: int) -> bytes:
        payload = self.payload[number * self.mss : (number + 1) * self.mss]
        flags = self.flags
        if number < self.count - 1:
            flags &= ~(FIN | PSH)
        if number > 0:
            flags &= ~CWR
        return self._frame(payload, number, flags, partial=False)

    def virtio(self) -> bytes:
        headers = len(self.large()) - len(self.payload)
        return struct.pack(
            "<BBHHHH",
            1,
            self.gso_type,
            headers,
            self.mss,
            self.transport_at,
            self.checksum_offset,
        )

    def _frame(self, payload: bytes, number: int, flags: int, *, partial: bool) -> bytes:
        transport = self._transport(payload, number * self.mss, flags)
        addresses = bytes(range(32)) if self.ipv6 else bytes((10, 32, 0, 1, 10, 32, 0, 2))
        tags = b"\x81\x00\x00\x05" * self.vlan_tags
        if self.ipv6:
            ip = struct.pack("!IHBB", 6 << 28, len(transport), self.protocol, 64) + addresses
            pseudo = addresses + struct.pack("!II", len(transport), self.protocol)
            ethertype = b"\x86\xdd"
        else:
            ip = struct.pack(
                "!BBHHHBBH",
                0x45 + len(self.ip_options) // 4,
                0,
                20 + len(self.ip_options) + len(transport),
                (self.identification + number) & 0xFFFF,
                0x4000,
                64,
                self.protocol,
                0,
            )
            ip += addresses + self.ip_options
            ip = ip[:10] + struct.pack("!H", 0xFFFF - ones_complement_sum(ip)) + ip[12:]
            pseudo = addresses + struct.pack("!HH", self.protocol, len(transport))
            ethertype = b"\x08\x00"
        checksum = ones_complement_sum(pseudo)
        if not partial:
            checksum = 0xFFFF - ones_complement_sum(pseudo + transport)
        at = self.checksum_offset
        transport = transport[:at] + struct.pack("!H", checksum) + transport[at + 2 :]
        macs = bytes.fromhex("020000000002020000000001")
        return macs + tags + ethertype + ip + transport

    def _transport(self, payload: bytes, offset: int, flags: int) -> bytes:
        if self.protocol == UDP:
            return struct.pack("!HHHH", 40000, 5201, 8 + len(payload), 0) + payload
        words = 5 + len(self.tcp_options) // 4
        sequence = (self.sequence + offset) & 0xFFFFFFFF
        header = struct.pack("!HHIIBBHHH", 40000, 5201, sequence, 9, words << 4, flags, 512, 0, 0)
        return header + self.tcp_options + payload


def as_kernel(written: bytes, ip_at: int) -> list[bytes]:
    """What leaves the kernel when this is written to a TAP, headers taken at their word.

    Asserts what the kernel needs: a partial checksum that is the sum of the pseudo header.
    """
    flags, gso_type, _, gso_size, start, offset = struct.unpack("<BBHHHH", written[:10])
    frame = written[10:]
    assert flags == 1
    ipv6 = frame[ip_at] >> 4 == 6
    protocol = frame[ip_at + 6] if ipv6 else frame[ip_at + 9]
    addresses = frame[ip_at + 8 : ip_at + 40] if ipv6 else frame[ip_at + 12 : ip_at + 20]
    pseudo = addresses + struct.pack("!II", len(frame) - start, protocol)
    (partial,) = struct.unpack_from("!H", frame, start + offset)
    assert partial % 0xFFFF == ones_complement_sum(pseudo) % 0xFFFF
    length = len(frame) - ip_at
    assert struct.unpack_from("!H", frame, ip_at + (4 if ipv6 else 2))[0] == (
        length - 40 if ipv6 else length
    )
    if not ipv6:
        assert ones_complement_sum(frame[ip_at:start]) == 0xFFFF
    header_end = start + (8 if protocol == UDP else (frame[start + 12] >> 4) * 4)
    payload = frame[header_end:]
    size = gso_size if gso_type else len(payload)
    assert gso_type == 0 or len(payload) > size
    segments = []
    for number, at in enumerate(range(0, len(payload), size)):
        last = at + size >= len(payload)
        head = bytearray(frame[:header_end])
        part = payload[at : at + size]
        transport_bytes = header_end - start + len(part)
        if ipv6:
            struct.pack_into("!H", head, ip_at + 4, transport_bytes + start - ip_at - 40)
        else:
            struct.pack_into("!H", head, ip_at + 2, transport_bytes + start - ip_at)
            (ident,) = struct.unpack_from("!H", head, ip_at + 4)
            struct.pack_into("!H", head, ip_at + 4, (ident + number) & 0xFFFF)
            struct.pack_into("!H", head, ip_at + 10, 0)
            checksum = 0xFFFF - ones_complement_sum(bytes(head[ip_at:start]))
            struct.pack_into("!H", head, ip_at + 10, checksum)
        if protocol == UDP:
            if gso_type:
                struct.pack_into("!H", head, start + 4, transport_bytes)
        else:
            (sequence,) = struct.unpack_from("!I", head, start + 4)
            struct.pack_into("!I", head, start + 4, (sequence + at) & 0xFFFFFFFF)
            if not last:
                head[start + 13] &= ~(FIN | PSH) & 0xFF
            if number:
                head[start + 13] &= ~CWR & 0xFF
        struct.pack_into("!H", head, start + offset, 0)
        pseudo = addresses + struct.pack("!II", transport_bytes, protocol)
        checksum = 0xFFFF - ones_complement_sum(pseudo + bytes(head[start:]) + part)
        struct.pack_into("!H", head, start + offset, checksum)
        segments.append(bytes(head) + part)
    return segments
