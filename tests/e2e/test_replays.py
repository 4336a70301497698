"""What was recorded on the wire and comes again, from the right address, reaches nobody.

WEAVEPY_REPLAYS=1000000     re-sends so many instead, which takes some minutes
"""

import os
import socket
import struct
import time

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import Stream, record_datagrams
from tests.e2e.waiting import counted, wait_for, wait_for_all_pings
from weavepy.base.settings import DEFAULT_PORT
from weavepy.lab.lab import Lab

REPLAYS = int(os.environ.get("WEAVEPY_REPLAYS", "20000"))
SITUATIONS = 4
RECORDED = 2500
BATCH = 50
BATCHES_PER_S = 200
"""Slow enough that the receiver's socket has room for all, so that each one is looked at."""

REFUSALS = ("unknown-index", "flood-filtered", "udp-queue-full")


def test_recorded_datagrams_are_accepted_in_no_epoch_after_no_restart_and_through_no_relay(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(hosts=3, containers=1, topology="chain", launch_options=["--no-discovery"])
    assert lab.ping().ok
    told = []
    with (
        Stream(lab, "h1c1", "h2c1", rate=600, size=400) as direct,
        Stream(lab, "h1c1", "h3c1", rate=600, size=400) as relayed,
    ):
        recorded = record_datagrams(lab, "h1", "h2", RECORDED, timeout_s=10.0)
        assert len(recorded) == RECORDED
        told.append(f"same epoch: {replay(lab, recorded)}")
        lab.router("h1", "kill")
        lab.router("h1", "start")
        wait_for_all_pings(lab, 20)
        told.append(f"next epoch: {replay(lab, recorded)}")
        for host, side in (("h2", "receiver"), ("h1", "sender")):
            lab.router(host, "stop")
            lab.router(host, "start")
            wait_for_all_pings(lab, 30)
            told.append(f"{side} restarted: {replay(lab, recorded)}")
    print("\n".join(told))
    assert direct.duplicated == []
    assert relayed.duplicated == [], "what h2 takes for h3 it would pass on"
    assert direct.counts
    assert relayed.counts


def replay(lab: Lab, datagrams: list[bytes]) -> dict[str, int]:
    """Send them over and over to h2 as if from h1; what h2 says of them."""
    link = lab.plan.link("h1", "h2")
    source, destination = link.end_at(1), link.end_at(2)
    ethernet = bytes.fromhex((destination.mac + source.mac).replace(":", "")) + b"\x08\x00"
    frames = [
        ethernet + udp_packet(source.address, destination.address, data) for data in datagrams
    ]
    before = refused(lab)
    wanted = REPLAYS // SITUATIONS
    with lab.inside("wire", lambda: packet_socket(destination.port)) as wire:
        began = time.monotonic()
        for number in range(wanted):
            wire.send(frames[number % len(frames)])
            if number % BATCH == BATCH - 1:
                due = began + number / BATCH / BATCHES_PER_S
                time.sleep(max(0.0, due - time.monotonic()))
    after = wait_for(
        lambda: refused(lab), lambda now: sum(now.values()) - sum(before.values()) >= wanted, 10
    )
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def refused(lab: Lab) -> dict[str, int]:
    datapath = lab.api("h2").status().datapath
    drops = counted(datapath.drops)
    found = {name: drops.get(name, 0) for name in REFUSALS}
    found["replayed"] = sum(counted(one.drops).get("replayed", 0) for one in datapath.sessions)
    return found


def udp_packet(source: str, destination: str, data: bytes) -> bytes:
    length = 28 + len(data)
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0x4000, 64, socket.IPPROTO_UDP, 0)
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", header))
    total = (total >> 16) + (total & 0xFFFF)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    return header + struct.pack("!HHHH", DEFAULT_PORT, DEFAULT_PORT, length - 20, 0) + data


def packet_socket(port: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.bind((port, 0))
    return made
