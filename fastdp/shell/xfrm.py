"""The kernel's IPsec (XFRM), for tunnels in ESP: policies that demand it, and associations.

For each address there are two policies: what we send to its VXLAN port must go in ESP, and what
comes from there to ours must have come in ESP. Without an association the kernel drops both, so
the policies are made before a tunnel's device and go after it.

Ours have a `reqid` made of the bridge's name and the peer's short id; all others are left alone.
Keys go from memory to the kernel by netlink, so they are in no file, argument or log.
"""

import errno
import secrets
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from zlib import crc32

from fastdp.core.effects import Association, Tunnel
from fastdp.core.messages import FIRST_SPI
from fastdp.shell.device import numeric
from fastdp.shell.driver import Associations
from fastdp.shell.xfrm_messages import (
    DELETE_POLICY,
    DELETE_STATE,
    GET_POLICIES,
    GET_STATES,
    IN,
    NEW_POLICY,
    NEW_STATE,
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
from weavepy.base.names import PeerName
from weavepy.kernel.messages import change, connected, dump

NO_ESP = "this kernel has no ESP"

_SHORT_ID_BITS = 12
_PROBE_HOST = "192.0.2.1"
"""Of a network for documentation (RFC 5737): no packet goes there."""
_GONE = (errno.ESRCH, errno.ENOENT)


def why_not() -> str:
    """Why this kernel cannot do ESP as tunnels need it; empty if it can.

    Makes an association as they have them, and removes it.
    """
    spi = secrets.randbelow((1 << 32) - FIRST_SPI) + FIRST_SPI
    probe = Association(spi, secrets.token_bytes(36), _PROBE_HOST, _PROBE_HOST)
    made = State(0, spi, _PROBE_HOST, receiving=True)
    try:
        with connected(socket.NETLINK_XFRM) as connection:
            change(connection, NEW_STATE, 0, [encode_state(probe, 0, 0)])
            change(connection, DELETE_STATE, 0, [encode_state_name(made)], _GONE)
    except PermissionError:
        return "ESP needs root, or the capability CAP_NET_ADMIN"
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOPROTOOPT):
            return NO_ESP
        if error.errno in (errno.ENOENT, errno.ENOSYS):
            return f"{NO_ESP} with AES-GCM"
        return f"ESP was refused by this kernel: {error.strerror}"
    return ""


class Xfrm:
    """Of one bridge. All that it does may raise `OSError`."""

    def __init__(self, bridge: str, port: int) -> None:
        self._port = port
        self._base = crc32(f"weavepy {bridge}".encode()) & -1 << _SHORT_ID_BITS & 0xFFFFFFFF

    def demand(self, tunnels: Iterable[Tunnel]) -> tuple[list[str], dict[PeerName, str]]:
        """Have the policies of these tunnels, whatever others are there.

        Return the addresses for which they were missing, and why a tunnel cannot have its own.
        """
        errors: dict[PeerName, str] = {}
        present = {(it.direction, it.remote_host): it.reqid for it in self._policies()}
        missing: list[Policy] = []
        for tunnel in tunnels:
            remote, reqid = str(numeric(tunnel.remote_host)), self._base | tunnel.short_id
            wanted = [Policy(direction, remote, reqid) for direction in (OUT, IN)]
            if any(present.get((it.direction, remote), reqid) != reqid for it in wanted):
                errors[tunnel.peer] = (
                    f"there is another IPsec policy for UDP port {self._port} of {remote}: of"
                    " another peer at that address, or not ours (`ip xfrm policy`)"
                )
                continue
            missing += [it for it in wanted if (it.direction, remote) not in present]
            present |= {(it.direction, remote): reqid for it in wanted}
        self._change(NEW_POLICY, [encode_policy(it, self._port) for it in missing])
        return sorted({it.remote_host for it in missing}), errors

    def release(self, tunnels: Iterable[Tunnel]) -> None:
        """Remove what is of no tunnel among these: only when their devices are gone."""
        wanted = {
            (str(numeric(tunnel.remote_host)), self._base | tunnel.short_id) for tunnel in tunnels
        }
        short_ids = {reqid for _, reqid in wanted}
        policies = [
            encode_policy_name(it, self._port)
            for it in self._policies()
            if self._is_ours(it.reqid)
            if (it.remote_host, it.reqid) not in wanted
        ]
        states = [it for it in self._states() if it.reqid not in short_ids]
        self._change(DELETE_POLICY, policies, _GONE)
        self._delete(states)

    def remote_hosts(self) -> dict[int, str]:
        """By short id, where datagrams have to be in ESP."""
        return {
            it.reqid & ~self._base: it.remote_host
            for it in self._policies()
            if self._is_ours(it.reqid)
            if it.direction == OUT
        }

    def associations(self) -> Mapping[int, Associations]:
        """By short id."""
        found: dict[int, tuple[set[int], set[int]]] = {}
        for state in self._states():
            both = found.setdefault(state.reqid & ~self._base, (set(), set()))
            both[0 if state.receiving else 1].add(state.spi)
        return {
            short_id: Associations(frozenset(receiving), frozenset(sending))
            for short_id, (receiving, sending) in found.items()
        }

    def add(self, short_id: int, association: Association) -> None:
        state = encode_state(association, self._base | short_id, self._port)
        self._change(NEW_STATE, [state])

    def keep(
        self, short_id: int, sending: Collection[int], receiving: Collection[int] | None
    ) -> None:
        """Remove the peer's others; with `receiving` None, only of those for sending."""

        def is_kept(state: State) -> bool:
            if state.receiving:
                return receiving is None or state.spi in receiving
            return state.spi in sending

        ours = [it for it in self._states() if it.reqid == self._base | short_id]
        self._delete([state for state in ours if not is_kept(state)])

    def _delete(self, states: Iterable[State]) -> None:
        self._change(DELETE_STATE, [encode_state_name(state) for state in states], _GONE)

    def _change(self, kind: int, bodies: Sequence[bytes], harmless: Sequence[int] = ()) -> None:
        if bodies:
            with connected(socket.NETLINK_XFRM) as connection:
                change(connection, kind, 0, bodies, harmless)

    def _policies(self) -> list[Policy]:
        """All that are for datagrams like ours, whoever made them."""
        decoded = (decode_policy(body, self._port) for body in _dump(GET_POLICIES))
        return [policy for policy in decoded if policy is not None]

    def _states(self) -> list[State]:
        """Ours."""
        return [it for it in map(decode_state, _dump(GET_STATES)) if self._is_ours(it.reqid)]

    def _is_ours(self, reqid: int) -> bool:
        return reqid >> _SHORT_ID_BITS == self._base >> _SHORT_ID_BITS


def _dump(kind: int) -> list[bytes]:
    """Nothing where the kernel knows no IPsec at all."""
    try:
        with connected(socket.NETLINK_XFRM) as connection:
            return dump(connection, kind, b"")
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return []
        raise
