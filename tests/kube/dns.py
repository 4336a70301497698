"""A name server in a pod: `python3 dns.py NAME=ADDRESS ...`, UDP port 53, A records, nothing else.

Given as text to an interpreter in a pod, so it imports nothing of ours.
"""

import socket
import struct
import sys


def answer(query: bytes, records: dict[str, str]) -> bytes:
    at, labels = 12, []
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode().lower())
        at += 1 + size
    question = query[12 : at + 5]
    address = records.get(".".join(labels))
    wants_address = question[-4:] == b"\0\1\0\1"
    found = address is not None and wants_address
    code = 0x8580 if address is not None else 0x8583
    header = query[:2] + struct.pack("!5H", code, 1, int(found), 0, 0)
    if not found or address is None:
        return header + question
    record = b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 5, 4) + socket.inet_aton(address)
    return header + question + record


def main() -> None:
    records = dict(word.split("=") for word in sys.argv[1:])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 53))
        while True:
            query, client = server.recvfrom(512)
            server.sendto(answer(query, records), client)


if __name__ == "__main__":
    main()
