"""What a line that loses datagrams costs TCP: little, as parity makes nearly all of them good.

How fast that is depends on the machine and is for `python -m tests.benchmarks.loss_cost`; how
much has to be sent again does not.
"""

import re
import socket
import struct
import threading

import pytest

from tests.e2e.conftest import MakeLab
from weavepy.lab.lab import Lab, LinkChange
from weavepy.lab.system import inside, run

pytestmark = pytest.mark.alone

SENT_BYTES = 24 * 1024 * 1024
LOSS = 0.01
TRANSFER_S = 60.0

_TOTAL_RETRANS_AT = 100
"""In struct tcp_info (linux/tcp.h), after 8 single bytes and 23 words."""


@pytest.mark.parametrize("options", [[], ["--no-offload"]], ids=["offload", "portable"])
def test_tcp_does_not_notice_most_lost_datagrams(make_lab: MakeLab, options: list[str]) -> None:
    lab = make_lab(hosts=2, containers=1, launch_options=options)
    lab.link("h1", "h2", LinkChange(loss=LOSS))
    retransmitted = transfer(lab, "h1c1", "h2c1")
    lost = datagrams_dropped(lab)
    (one,), (two,) = (lab.api(host).status().datapath.sessions for host in ("h1", "h2"))
    mended = one.mended + two.mended
    print(
        f"{lost} datagrams were dropped both ways, {mended} made good by parity,"
        f" {retransmitted} segments sent again"
    )
    assert lost > 100, "or nothing was tested"
    assert one.parity_sent > 1000
    # One lost datagram in five is parity itself.
    assert mended > 0.4 * lost
    assert retransmitted < 0.5 * lost


def transfer(lab: Lab, source: str, destination: str) -> int:
    """Send `SENT_BYTES` and return how many segments had to be sent again."""
    listener = lab.inside(destination, socket.socket)
    sender = lab.inside(source, socket.socket)
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    received = 0

    def receive() -> None:
        nonlocal received
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TRANSFER_S)
            while data := connection.recv(1 << 16):
                received += len(data)

    with listener, sender:
        listener.bind((lab.address(destination), 0))
        listener.listen()
        listener.settimeout(TRANSFER_S)
        receiver = threading.Thread(target=receive, name="loss receiver")
        receiver.start()
        sender.settimeout(TRANSFER_S)
        sender.connect(listener.getsockname())
        sender.sendall(bytes(SENT_BYTES))
        sender.shutdown(socket.SHUT_WR)
        receiver.join(TRANSFER_S)
        assert received == SENT_BYTES
        info = sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (retransmitted,) = struct.unpack_from("=I", info, _TOTAL_RETRANS_AT)
    return int(retransmitted)


def datagrams_dropped(lab: Lab) -> int:
    """By the loss that the lab makes in the wire, in both directions."""
    rules = run(inside(lab.plan.wire, ["nft", "list", "ruleset"]))
    return sum(map(int, re.findall(r"numgen random .* counter packets (\d+) .* drop", rules)))
