"""The underlay: paths between hosts, TCP connections as ordered byte streams, UDP datagrams.

A path has a direction, and faults may block it, any number of them at once. TCP waits for a
blocked path and delivers later; datagrams are lost. Bytes come in any portions. A connection to a
process that died is reset; one to a host without power is just silent.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from router.mesh.effects import Dial, LinkId
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.kernel import Kernel
    from tests.sim.peers import Host

DIAL_TIMEOUT_S = 5.0
"""As in `router.shell.tcp`."""

SYN_AGAIN_S = 1.0
PORT = 6783

SPLIT_CHANCE = 0.05
"""How many chunks arrive in two portions."""

MAX_STUCK_BYTES = 8 << 20
"""As in `router.shell.tcp`: then the sender gives up the connection."""

FIN = "fin"
RESET = "reset"


@dataclass(eq=False)
class End:
    """One end of a TCP connection, and what is on its way to it."""

    host: "Host"
    run: int
    """Of the router's process that opened it."""
    link: LinkId
    other: "End | None" = None
    open: bool = True
    """The process has not closed it and is not dead."""
    paused: bool = False
    """The core was told to wait with more."""
    incoming: deque[tuple[float, bytes | str]] = field(default_factory=deque)
    incoming_bytes: int = 0
    last_at: float = 0.0
    stalled_until: float = 0.0


class Network:
    def __init__(self, world: World, *, latency_s: float, high_water_bytes: int) -> None:
        self.udp_loss = 0.0
        self.most_unsent_bytes = 0
        self._world = world
        self._rng = world.random("network")
        self._latency_s = latency_s
        self._high_water_bytes = high_water_bytes
        self._blocked: dict[tuple[int, int], int] = {}
        self._udp_blocked: dict[tuple[int, int], int] = {}
        self._vxlan_blocked: dict[tuple[int, int], int] = {}
        self._vxlan_shut_at: dict[tuple[int, int], float] = {}
        self._vxlan_rng = world.random("vxlan")
        self._hosts: dict[str, Host] = {}
        self._ends: dict[int, dict[int, End]] = {}
        self._ends_by_number: dict[int, End] = {}

    def add(self, host: "Host") -> None:
        self._hosts[host.address] = host
        self._ends[host.number] = {}

    def gain_address(self, host: "Host", number: int) -> str:
        """A new one, which leads to this host until it is lost, or, if odd, never did."""
        address = f"10.1.{host.number}.{number}"
        if number % 2 == 0:
            self._hosts[address] = host
        return address

    def lose_address(self, address: str) -> None:
        self._hosts.pop(address, None)

    def host_at(self, address: str) -> "Host | None":
        return self._hosts.get(address)

    # --- paths -------------------------------------------------------------------------------

    def is_open(self, giver: "Host", taker: "Host") -> bool:
        return not self._blocked.get((giver.number, taker.number))

    def udp_is_open(self, giver: "Host", taker: "Host") -> bool:
        return self.is_open(giver, taker) and not self._udp_blocked.get(
            (giver.number, taker.number)
        )

    def vxlan_is_open(self, giver: "Host", taker: "Host") -> bool:
        return self.is_open(giver, taker) and not self._vxlan_blocked.get(
            (giver.number, taker.number)
        )

    def vxlan_shut_at(self, one: "Host", other: "Host") -> float | None:
        """Since when VXLAN of one of the two has not got through, without a moment between."""
        return self._vxlan_shut_at.get(_pair(one.number, other.number))

    def block_vxlan(self, giver: int, taker: int, count: int = 1) -> None:
        """UDP 6784 alone; with a negative count, as if it had not been."""
        pair = giver, taker
        self._vxlan_blocked[pair] = self._vxlan_blocked.get(pair, 0) + count
        self._note_vxlan(giver, taker)

    def block(self, giver: int, taker: int) -> None:
        self._blocked[giver, taker] = self._blocked.get((giver, taker), 0) + 1
        self._note_vxlan(giver, taker)

    def block_udp(self, giver: int, taker: int) -> None:
        self._udp_blocked[giver, taker] = self._udp_blocked.get((giver, taker), 0) + 1

    def unblock_udp(self, giver: int, taker: int) -> None:
        self._udp_blocked[giver, taker] -= 1

    def unblock(self, giver: int, taker: int) -> None:
        self._blocked[giver, taker] -= 1
        self._note_vxlan(giver, taker)
        if not self._blocked[giver, taker]:
            for end in list(self._ends[taker].values()):
                if end.other is not None and end.other.host.number == giver:
                    self._deliver(end)

    def _note_vxlan(self, one: int, other: int) -> None:
        ways = (one, other), (other, one)
        if any(self._blocked.get(way) or self._vxlan_blocked.get(way) for way in ways):
            self._vxlan_shut_at.setdefault(_pair(one, other), self._world.now)
        else:
            self._vxlan_shut_at.pop(_pair(one, other), None)

    def delay_s(self) -> float:
        return self._latency_s * (0.5 + self._rng.random())

    # --- UDP ---------------------------------------------------------------------------------

    def send_datagram(self, giver: "Host", address: str, arrive: Callable[["Host"], None]) -> None:
        """`arrive` is called at the host that has this address, if the datagram gets there."""
        taker = self._hosts.get(address)
        if taker is None or self._rng.random() < self.udp_loss:
            return
        self._world.later(self.delay_s(), self._datagram, giver, taker, arrive)

    def _datagram(self, giver: "Host", taker: "Host", arrive: Callable[["Host"], None]) -> None:
        if taker.powered and self.udp_is_open(giver, taker):
            arrive(taker)

    def send_vxlan(
        self, giver: "Host", address: str, arrive: Callable[["Kernel", str], None]
    ) -> None:
        """`arrive` is called with the kernel of whoever has this address, and the giver's."""
        rng = self._vxlan_rng
        taker = self._hosts.get(address)
        if taker is None or rng.random() < self.udp_loss:
            return
        delay_s = self._latency_s * (0.5 + rng.random())
        self._world.later(delay_s, self._vxlan, giver, taker, arrive)

    def _vxlan(self, giver: "Host", taker: "Host", arrive: Callable[["Kernel", str], None]) -> None:
        if taker.powered and taker.kernel is not None and self.vxlan_is_open(giver, taker):
            arrive(taker.kernel, giver.address)

    # --- TCP: dialling -----------------------------------------------------------------------

    def dial(self, giver: "Host", effect: Dial) -> None:
        end = End(giver, giver.run, effect.link)
        giver.dials[effect.link] = end
        taker = self._hosts.get(effect.host)
        if taker is None or effect.port != PORT:
            self._world.later(0.001, self._refused, end)
            return
        self._world.later(DIAL_TIMEOUT_S, self._dial_over, end)
        self._world.later(self.delay_s(), self._syn, end, taker)

    def _syn(self, end: End, taker: "Host") -> None:
        giver = end.host
        if not end.open or giver.dials.get(end.link) is not end:
            return
        if not (taker.powered and self.is_open(giver, taker) and self.is_open(taker, giver)):
            self._world.later(SYN_AGAIN_S, self._syn, end, taker)
            return
        if not taker.running:
            self._world.later(self.delay_s(), self._refused, end)
            return
        other = End(taker, taker.run, LinkId(0), end)
        end.other = other
        taker.post(self._accept, other, end)
        self._world.later(self.delay_s(), self._opened, end)

    def _accept(self, end: End, dialler: End) -> None:
        assert end.host.mesh is not None
        end.link = end.host.mesh.new_link_id()
        end.host.links[end.link] = end
        self._ends[end.host.number][id(end)] = end
        end.host.link_accepted(end.link, dialler.host.address, 40000 + end.link % 20000)
        self._deliver(end)

    def _opened(self, end: End) -> None:
        other = end.other
        assert other is not None
        if not end.open or end.host.dials.get(end.link) is not end:
            self._put(other, RESET)
            return
        del end.host.dials[end.link]
        end.host.links[end.link] = end
        self._ends[end.host.number][id(end)] = end
        end.host.post(end.host.link_opened, end.link, other.host.address, PORT)
        self._deliver(end)

    def _refused(self, end: End) -> None:
        if end.open and end.host.dials.pop(end.link, None) is end:
            end.host.post(end.host.dial_failed, end.link, "connection refused")

    def _dial_over(self, end: End) -> None:
        if end.open and end.host.dials.get(end.link) is end:
            del end.host.dials[end.link]
            text = f"no answer within {DIAL_TIMEOUT_S:g} s"
            end.host.post(end.host.dial_failed, end.link, text)

    # --- TCP: bytes --------------------------------------------------------------------------

    def send(self, end: End, data: bytes) -> None:
        other = end.other
        assert other is not None
        other.incoming_bytes += len(data)
        self.most_unsent_bytes = max(self.most_unsent_bytes, other.incoming_bytes)
        self._put(other, data)
        if other.incoming_bytes > MAX_STUCK_BYTES:
            self.kill(end, cut=True)
            end.host.post(end.host.link_closed, end.link, "stuck")
        elif not end.paused and other.incoming_bytes > self._high_water_bytes:
            end.paused = True
            end.host.link_paused(end.link)

    def close(self, end: End) -> None:
        """What was sent still goes out."""
        if end.open:
            self._forget(end)
            if end.other is not None:
                self._put(end.other, FIN)

    def kill(self, end: End, *, cut: bool) -> None:
        """The process died, or the connection is reset; with `cut`, amid what was sent."""
        if not end.open:
            return
        self._forget(end)
        other = end.other
        if other is None:
            return
        if cut and other.incoming:
            keep = self._rng.randrange(len(other.incoming) + 1)
            while len(other.incoming) > keep:
                _, dropped = other.incoming.pop()
                if isinstance(dropped, bytes):
                    other.incoming_bytes -= len(dropped)
                    part = dropped[: self._rng.randrange(len(dropped) + 1)]
                    if part and len(other.incoming) == keep:
                        other.incoming_bytes += len(part)
                        self._put(other, part)
        self._put(other, RESET)

    def vanish(self, end: End) -> None:
        """The host lost power: nothing says so to the other end."""
        self._forget(end)

    def reset(self, one: "Host", other: "Host") -> None:
        """A middlebox resets all connections between two hosts, anywhere in their streams."""
        for end in [*one.links.values()]:
            if end.other is not None and end.other.host is other:
                peer = end.other
                self.kill(end, cut=True)
                one.post(one.link_closed, end.link, "reset")
                if peer.open and not peer.incoming:
                    self._put(peer, RESET)

    def stall(self, giver: "Host", taker: "Host", duration_s: float) -> None:
        """Segments are lost again and again: what goes to `taker` comes late, and in order."""
        for end in taker.links.values():
            if end.other is not None and end.other.host is giver:
                end.stalled_until = self._world.now + duration_s

    def ends_of(self, host: "Host") -> list[End]:
        return list(host.links.values())

    def _forget(self, end: End) -> None:
        end.open = False
        end.host.links.pop(end.link, None)
        self._ends[end.host.number].pop(id(end), None)

    def _put(self, end: End, what: bytes | str) -> None:
        at = max(end.last_at, self._world.now + self.delay_s())
        end.last_at = at
        end.incoming.append((at, what))
        self._world.at(at, self._deliver, end)

    def _deliver(self, end: End) -> None:
        """Hand over what has arrived, as far as faults and the reader's speed let it."""
        other = end.other
        assert other is not None
        host = end.host
        now = self._world.now
        while end.incoming and end.incoming[0][0] <= now:
            if not self.is_open(other.host, host):
                return
            if end.open and not end.link:
                return  # not accepted yet
            if end.open and end.link in host.dials:
                return
            if now < end.stalled_until:
                self._world.at(end.stalled_until, self._deliver, end)
                return
            _, what = end.incoming.popleft()
            if not host.powered:
                if isinstance(what, bytes):
                    end.incoming_bytes -= len(what)
                continue
            if not end.open:
                if isinstance(what, bytes):
                    end.incoming_bytes -= len(what)
                    if other.open:
                        self._put(other, RESET)
                continue
            if isinstance(what, bytes):
                if host.slow_bytes_per_s:
                    end.stalled_until = now + len(what) / host.slow_bytes_per_s
                self._arrive(end, what)
                self._resume(end, other)
            else:
                self._forget(end)
                text = "closed by the other side" if what == FIN else "connection reset by peer"
                host.post(host.link_closed, end.link, text)

    def _arrive(self, end: End, data: bytes) -> None:
        end.incoming_bytes -= len(data)
        host = end.host
        if len(data) > 1 and self._rng.random() < SPLIT_CHANCE:
            at = self._rng.randrange(1, len(data))
            host.post(host.bytes_came, end.link, data[:at])
            data = data[at:]
        host.post(host.bytes_came, end.link, data)

    def _resume(self, end: End, other: End) -> None:
        if other.paused and other.open and end.incoming_bytes <= self._high_water_bytes // 4:
            other.paused = False
            other.host.post(other.host.link_resumed, other.link)


def _pair(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)
