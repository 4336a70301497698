"""Between the fast path's core and the datapath, which do not know each other's types.

The core speaks of bytes and plain values, the datapath's messages of MACs as text.
"""

from collections.abc import Iterable

from fastdp.core.effects import FastEffect, SetFast
from fastdp.core.paths import FastPaths
from router.sleeve.messages import (
    EndpointRoamed,
    FastPeersSet,
    FromDatapath,
    MacsOnTap,
    SessionDown,
    SessionUp,
    SetFastPeers,
    Snapshot,
)
from weavepy.base.names import PeerName


def to_datapath(effect: SetFast) -> SetFastPeers:
    return SetFastPeers(
        generation=effect.generation,
        fast=list(effect.fast),
        relays=list(effect.relays),
        tunnels=list(effect.tunnels),
        learn={short_id: [mac.hex(":") for mac in macs] for short_id, macs in effect.learn.items()},
    )


def met_datapath(paths: FastPaths, snapshot: Snapshot, now: float) -> list[FastEffect]:
    """At start, or after the one before was lost."""
    effects = paths.handle_datapath_back(snapshot.fast, now)
    for session in snapshot.sessions:
        if session.up:
            effects += paths.handle_session(PeerName(session.peer), session.endpoint_host, now)
    return effects


def from_datapath(paths: FastPaths, message: FromDatapath, now: float) -> list[FastEffect]:
    match message:
        case (
            SessionUp(peer=peer, endpoint_host=host) | EndpointRoamed(peer=peer, endpoint_host=host)
        ):
            return paths.handle_session(PeerName(peer), host, now)
        case SessionDown(peer=peer):
            return paths.handle_session_lost(PeerName(peer), now)
        case FastPeersSet(generation=generation, macs=macs):
            behind = {short_id: _macs(texts) for short_id, texts in macs.items()}
            return paths.handle_fast_set(generation, behind, now)
        case MacsOnTap(macs=macs):
            effects: list[FastEffect] = []
            for short_id, texts in macs.items():
                effects += paths.handle_macs_on_tap(short_id, _macs(texts), now)
            return effects
        case _:
            return []


def _macs(texts: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(text.replace(":", "")) for text in texts]
