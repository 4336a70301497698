"""To whom there should be a tunnel, and if not, why; and what we tell the peer about it.

A tunnel needs a session, so that we know an address that is the peer's; a direct link, as
relaying is sleeve's work; short ids, of which its network id is made; and both ends' will.
"""

from collections.abc import Collection, Mapping

from fastdp.core.effects import AdoptedTunnel, TellPeer, Tunnel, network_id
from fastdp.core.esp import largest_mtu
from fastdp.core.messages import MAX_REASON_LENGTH, Offer, encode_message
from fastdp.core.path import Path, Phase
from fastdp.core.policy import Policy, version_of
from weavepy.base.names import PeerName

MAX_TUNNELS = 900
"""A Linux bridge has 1,023 ports, and containers need some."""

OFFER_REPEAT_S = 10.0


class Choice:
    def __init__(self, policy: Policy, mtu_bytes: int, port: int, underlay_mtu_bytes: int) -> None:
        self._policy = policy
        self._mtu_bytes = mtu_bytes
        self._port = port
        self._underlay_mtu_bytes = underlay_mtu_bytes
        self._ourself = 0
        self._short_ids: Mapping[PeerName, int] = {}
        self._direct: Mapping[PeerName, None] = {}

    def update(
        self, ourself: int, short_ids: Mapping[PeerName, int], direct: Collection[PeerName]
    ) -> None:
        """Our short id (0: none yet), those of all reachable peers, and who is a neighbour."""
        self._ourself = ourself
        self._short_ids = short_ids
        self._direct = dict.fromkeys(direct)

    def set_mtu(self, mtu_bytes: int, underlay_mtu_bytes: int) -> None:
        self._mtu_bytes, self._underlay_mtu_bytes = mtu_bytes, underlay_mtu_bytes

    def short_id_of(self, peer: PeerName) -> int:
        """0 if it is not reachable."""
        return self._short_ids.get(peer, 0)

    def tunnel_to(self, path: Path, tunnels: int) -> Tunnel | None:
        """The tunnel that there should be beside `tunnels` others; if None, `path.refusal` says
        why.

        What is not known does not end a tunnel that carries: it works without sleeve, and its
        heartbeats tell whether it does. Only a peer that others relay to must not have one.
        """
        short_id = self._short_ids.get(path.peer, 0)
        path.refusal = self._refusal(path, short_id)
        if path.refusal:
            return None
        path.refusal = self._unknown(path, short_id)
        if path.refusal:
            return path.tunnel if path.phase is Phase.CARRYING else None
        encrypted = self._encrypts(path)
        path.refusal = self._their_refusal(path, encrypted)
        if not path.refusal and path.tunnel is None and tunnels >= MAX_TUNNELS:
            path.refusal = f"behind {MAX_TUNNELS} others"
        if path.refusal:
            return None
        identifier = network_id(self._ourself, short_id)
        return Tunnel(path.peer, short_id, identifier, path.host, encrypted)

    def adopted_tunnel(self, found: AdoptedTunnel) -> Tunnel:
        """Until the peer says more, it stays as it was, but never clearer than we want it."""
        encrypted = found.encrypted or self._policy.must_encrypt(found.remote_host)
        return Tunnel(found.peer, found.short_id, found.network_id, found.remote_host, encrypted)

    def offer_to(self, path: Path, now: float) -> list[TellPeer]:
        """Ours, if the peer has not heard it or has not said anything itself."""
        if not path.connected or not path.host:
            path.offered = None
            return []
        refusal = self._policy.refusal_in_clear(path.host)[:MAX_REASON_LENGTH]
        offer = Offer(
            willing=not refusal,
            reason=refusal,
            token=path.token,
            mtu_bytes=self._mtu_bytes,
            port=self._port,
            your_host=path.host,
            esp=self._policy.has_esp,
        )
        waits = path.theirs is None and self._policy.enabled
        if offer == path.offered and not (waits and now >= path.repeat_at):
            return []
        path.offered = offer
        path.repeat_at = now + OFFER_REPEAT_S
        return [TellPeer(path.peer, encode_message(offer))]

    def _refusal(self, path: Path, short_id: int) -> str:
        if path.left:
            return "the other end has left the mesh"
        if short_id and path.peer not in self._direct:
            return "frames are relayed: there is no direct link"
        return self._policy.refusal(path.host) if path.host else ""

    def _unknown(self, path: Path, short_id: int) -> str:
        if not path.host:
            return "there is no session"
        if not short_id or not self._ourself:
            return "there is no link yet"
        if path.theirs is None:
            return "the other end has said nothing of a fast path"
        return ""

    def _encrypts(self, path: Path) -> bool:
        """In clear only if both ends want that."""
        assert path.theirs is not None
        return not path.theirs.willing or bool(self._policy.refusal_in_clear(path.host))

    def _their_refusal(self, path: Path, encrypted: bool) -> str:
        offer = path.theirs
        assert offer is not None
        if encrypted and not (offer.esp and self._policy.has_esp):
            if offer.willing:
                ours = self._policy.refusal_in_clear(path.host)
                return f"{ours} ({path.host} has no ESP)"
            return f"the other end does not want a fast path: {offer.reason}"
        if offer.port != self._port:
            return f"the other end has VXLAN on UDP port {offer.port}, and we on {self._port}"
        if offer.mtu_bytes != self._mtu_bytes:
            # A bridge drops in silence what is too large for a port; sleeve answers or cuts it.
            return (
                f"the other end's overlay MTU is {offer.mtu_bytes}, and ours {self._mtu_bytes}: "
                f"--mtu {min(offer.mtu_bytes, self._mtu_bytes)} on both makes them equal"
            )
        return self._no_room(path.host, offer.your_host) if encrypted else ""

    def _no_room(self, remote_host: str, local_host: str) -> str:
        """Why packets of full size, or any, would not get through in ESP."""
        version = version_of(remote_host)
        if version_of(local_host) != version:
            return f"the other end sends to {local_host or 'nowhere'}, and we to {remote_host}"
        largest = largest_mtu(self._underlay_mtu_bytes, version)
        if self._mtu_bytes <= largest:
            return ""
        return (
            f"ESP makes packets of the overlay's MTU of {self._mtu_bytes} too large for the"
            f" underlay's of {self._underlay_mtu_bytes}: --mtu {largest}"
        )
