"""Strangers: a wrong secret, mangled handshakes, garbage. Refused, counted, explained, harmless."""

import random
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from router.mesh.header import HEADER_BYTES, MAGIC, Role, encode_header
from router.mesh.secret import encode_secret, new_secret
from tests.e2e.conftest import MakeLab
from tests.e2e.waiting import counted, wait_for
from weavepy.lab import routers
from weavepy.lab.lab import Lab
from weavepy.lab.plan import Node

PORT = 6783
MEMORY_GROWTH_KB = 48 * 1024
"""What garbage may cost a process at the most; a buffer without bound would take far more."""


def test_a_router_with_the_wrong_secret_is_refused_and_both_sides_say_why(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab(hosts=3, containers=1)
    lab.router("h3", "stop")
    wrong = tmp_path / "secret"
    wrong.write_text(encode_secret(new_secret()) + "\n")
    wrong.chmod(0o600)
    arguments = ["--nickname", "h3", "--secret-file", str(wrong), *lab.plan.targets(3)]
    command, environment = lab.command(
        "h3", [sys.executable, "-m", "weavepy", "launch", *arguments]
    )
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as stranger:
        try:
            refused = wait_for(
                lambda: counted(lab.api("h1").status().router.refused),
                lambda counts: counts.get("wrong-secret", 0) > 0,
                20,
            )
            assert refused["wrong-secret"] >= 1
            assert any("secret" in warning for warning in lab.api("h1").status().router.warnings)
            wait_for(lambda: _explanations(lab, "h3"), lambda text: "secret" in text, 20)
            assert lab.api("h1").status().router.established == 1, "h2 and nobody else"
        finally:
            stranger.kill()
    assert [pair for pair in lab.ping().pairs if not pair.ok and "h3" not in repr(pair)] == []


def _explanations(lab: Lab, host: str) -> str:
    """Everything in a router's status that tells an operator why it is alone."""
    if routers.router_pid(lab.store, lab.plan, lab.plan.node(host)) is None:
        return ""
    status = lab.api(host).status()
    return " ".join(
        [
            *(connection.info for connection in status.connections),
            *(target.last_error for target in status.targets),
            *status.router.warnings,
        ]
    )


def test_garbage_to_both_ports_is_refused_counted_and_harmless(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1)
    rng = random.Random(6783)
    before = _memory_kb(lab, "h1")
    _mangled_handshakes(lab, rng)
    _silent_connections(lab, 150)
    _garbage_datagrams(lab, rng, 20_000)

    refused = wait_for(
        lambda: counted(lab.api("h1").status().router.refused),
        lambda counts: {"not-weavepy", "bad-version", "encryption-mismatch"} <= counts.keys(),
        20,
    )
    assert sum(refused.values()) >= 30
    drops = counted(lab.api("h1").status().datapath.drops)
    assert sum(drops.values()) >= 10_000, drops
    assert lab.ping().ok
    status = lab.api("h1").status()
    assert status.router.established == 2
    after = _memory_kb(lab, "h1")
    grown = {name: after[name] - before[name] for name in before}
    assert max(grown.values()) < MEMORY_GROWTH_KB, grown


def _mangled_handshakes(lab: Lab, rng: random.Random) -> None:
    good = encode_header(Role.INITIATOR, True)
    old = MAGIC + bytes([0, 0]) + good[len(MAGIC) + 2 :]
    openings = [
        old,
        encode_header(Role.INITIATOR, False),
        encode_header(Role.RESPONDER, True),
        good + b"\x01" + rng.randbytes(400),
        good + b"\xff" * 2000,
        b"GET / HTTP/1.1\r\nHost: weavepy\r\n\r\n",
        b"\x16\x03\x01" + rng.randbytes(300),
        rng.randbytes(100_000),
    ]
    openings += [good + rng.randbytes(rng.randrange(1, 600)) for _ in range(20)]
    for _ in range(10):
        flipped = bytearray(good)
        flipped[rng.randrange(HEADER_BYTES)] ^= 1 << rng.randrange(8)
        openings.append(bytes(flipped) + rng.randbytes(200))
    for opening in openings:
        with lab.inside("h2", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as made:
            made.settimeout(8)
            made.connect((_address_of_h1(lab), PORT))
            try:
                made.sendall(opening)
                made.shutdown(socket.SHUT_WR)
                while made.recv(65536):
                    pass
            except TimeoutError:
                raise
            except OSError:
                pass  # refused before we had said it all


def _silent_connections(lab: Lab, count: int) -> None:
    """More than the limit of half-open strangers, all at once: they are cut off, soon."""
    address = (_address_of_h1(lab), PORT)
    made = [
        lab.inside("h2", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        for _ in range(count)
    ]
    try:
        for stranger in made:
            stranger.settimeout(5)
            try:
                stranger.connect(address)
            except OSError:
                pass  # the listener's queue may be full: as good as a refusal
        deadline = time.monotonic() + 10
        for stranger in made:
            stranger.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                while stranger.recv(4096):
                    pass
            except OSError as error:
                assert not isinstance(error, TimeoutError), "a silent stranger is still connected"
    finally:
        for stranger in made:
            stranger.close()


def _garbage_datagrams(lab: Lab, rng: random.Random, count: int) -> None:
    """Of all sizes; half of them begin like a record of some version might."""
    address = (_address_of_h1(lab), PORT)
    with lab.inside("h2", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as made:
        for number in range(count):
            head = struct.pack("!B", rng.randrange(8)) if number % 2 else b""
            made.sendto(head + rng.randbytes(rng.randrange(1, 1400)), address)
            if number % 100 == 99:
                time.sleep(0.005)  # a flood beyond the socket's buffer would not be counted


def _address_of_h1(lab: Lab) -> str:
    return lab.plan.link("h1", "h2").end_at(1).address


def _memory_kb(lab: Lab, host: str) -> dict[str, int]:
    node = Node(int(host[1:]))
    pids = {
        "router": routers.router_pid(lab.store, lab.plan, node),
        "datapath": routers.datapath_pid(lab.store, lab.plan, node),
    }
    assert None not in pids.values()
    found = {}
    for name, pid in pids.items():
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                found[name] = int(line.split()[1])
    assert found.keys() == pids.keys()
    return found
