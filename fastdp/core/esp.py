"""How two routers agree on the keys of an encrypted tunnel, and renew them while it carries.

An association of ESP is the key of one direction; whoever receives names it by its SPI. One end
opens, the one whose name sorts first, so that the two never open at once:

    opener                                  answerer
    Propose(nonce, spi)     ->
                                            has what it will receive by in its kernel
                            <-              Answer(nonce, spi, proof)
    has what it will receive by,
    then what it sends by
    Confirm(proof)          ->
                                            has what it sends by
                            <-              Done()

So nobody sends by a key which the other's kernel may not have yet, and no datagram is lost when
keys change. What was received by before ends `OLD_S` after the other has said that it sends by
the new key, so that nothing is lost either if its router dies at any point.

The keys come from the secret of the control connection's handshake and both nonces (HKDF-SHA256,
RFC 5869), so they are never used twice, also when a router begins anew; the proofs tell two ends
that speak of different handshakes. They are in the kernel and in passing in here, nowhere else: a
router that is started again agrees on new ones, while those of the one before carry on.
"""

import math
from dataclasses import dataclass
from hmac import compare_digest
from random import Random

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fastdp.core.effects import (
    AddAssociation,
    Association,
    FastEffect,
    KeepAssociations,
    LogLine,
    TellPeer,
)
from fastdp.core.messages import (
    FIRST_SPI,
    NONCE_BYTES,
    PROOF_BYTES,
    Answer,
    Confirm,
    Done,
    EspMessage,
    Propose,
    Renew,
    encode_message,
)
from weavepy.base.errors import ProtocolError
from weavepy.base.names import PeerName

REKEY_S = 120.0
"""As the sessions of sleeve do. A counter of 64 bits (ESN) does not end before that."""
OLD_S = 10.0
RETRY_S = 5.0
"""Without an answer, or after the kernel refused."""
SOON_S = 1.0
"""Between two proposals at least."""
MAX_RECEIVING = 64
"""Associations for receiving. More than a few are there only if one exchange after the other does
not come to its end, and then one of the last is in use."""

KEY_BYTES = 36

_LABEL = b"weavepy fastdp esp v1"


@dataclass(frozen=True, slots=True)
class Ends:
    """What the associations of a tunnel are for."""

    short_id: int
    """The peer's."""
    local_host: str
    """Ours, as the peer sees it."""
    remote_host: str


@dataclass(frozen=True, slots=True)
class Keys:
    sending: bytes
    receiving: bytes
    our_proof: bytes
    their_proof: bytes


@dataclass(slots=True)
class _Exchange:
    nonce: bytes
    spi: int
    """Ours, to receive by."""
    their_nonce: bytes = b""
    their_spi: int = 0
    keys: Keys | None = None
    """As soon as both nonces are known."""
    receives: bool = False
    """What we receive by is in the kernel."""


class KeyExchange:
    """With one peer, over one control connection after the other."""

    def __init__(
        self, peer: PeerName, *, opens: bool, rng: Random, rekey_s: float = REKEY_S
    ) -> None:
        self.error = ""
        """Why the kernel did not take an association."""
        self._peer = peer
        self._opens = opens
        self._rng = rng
        self._rekey_s = rekey_s
        self._secret = b""
        self._ends: Ends | None = None
        self._exchange: _Exchange | None = None
        self._asked: Propose | None = None
        """It came before there was a tunnel for it."""
        self._receiving: dict[int, float] = {}
        """SPIs in the kernel, the oldest first, and when each is to be removed."""
        self._current: tuple[int, int] | None = None
        """What we receive by and what we send by since the last exchange; None: not agreed yet."""
        self._propose_at = math.inf
        self._proposed_at = -math.inf

    @property
    def is_agreed(self) -> bool:
        return self._current is not None

    # --- inputs ------------------------------------------------------------------------------

    def handle_connected(self, secret: bytes, now: float) -> list[FastEffect]:
        """The peer may be another router than before: begin anew."""
        self._secret = secret
        self._exchange = self._asked = None
        self._propose_at = now
        return self.handle_timeout(now)

    def handle_disconnected(self) -> None:
        """What is in the kernel goes on."""
        self._secret = b""
        self._exchange = self._asked = None

    def handle_tunnel(self, ends: Ends | None, now: float) -> list[FastEffect]:
        """There is a tunnel between these, or none any more: then the driver removes all of its."""
        if ends == self._ends:
            return []
        if self._ends is not None:
            self._receiving.clear()
        self._ends = ends
        self._exchange = self._current = None
        self._propose_at = now
        if ends is None or not self._secret or self._opens:
            return self.handle_timeout(now)
        if self._asked is not None:
            return self._answer(self._asked, ends)
        return [self._tell(Renew())]

    def handle_message(self, message: EspMessage, now: float) -> list[FastEffect]:
        """Raises `ProtocolError` if the peer has come to other keys."""
        match message:
            case Propose() if not self._opens:
                if self._ends is None or not self._secret:
                    self._asked = message
                    return []
                return self._answer(message, self._ends)
            case Answer() if self._opens:
                return self._answered(message)
            case Confirm() if not self._opens:
                return self._confirmed(message)
            case Done() if self._opens:
                exchange = self._exchange
                if exchange is not None and message.answered == exchange.their_nonce:
                    self._over(exchange, now)
            case Renew() if self._opens:
                self._propose_at = min(self._propose_at, max(now, self._proposed_at + SOON_S))
                return self.handle_timeout(now)
        return []

    def handle_added(self, spi: int, error: str, now: float) -> list[FastEffect]:
        """The kernel has the association, or why not."""
        exchange = self._exchange
        if exchange is None or exchange.keys is None or self._ends is None:
            return []
        if spi not in (exchange.spi, exchange.their_spi):
            return []  # of an exchange that was given up
        if error:
            self.error = error
            self._exchange = None
            self._propose_at = now + RETRY_S
            return [self._log("warning", f"ESP: {error}")]
        if spi == exchange.spi and not exchange.receives:
            exchange.receives = True
            self._receiving[spi] = math.inf
            return [*self._bound(self._ends), self._receives(exchange, exchange.keys, self._ends)]
        return self._switched(exchange, exchange.keys, self._ends, now)

    def handle_found(
        self, receiving: frozenset[int], sending: frozenset[int], now: float
    ) -> list[FastEffect]:
        """What the kernel has, as of the last association that it was said to have.

        Those that a router before us left are among them, and may be in use.
        """
        for spi in sorted(receiving):
            self._receiving.setdefault(spi, math.inf)
        if self._current is None:
            return []
        if self._current[0] in receiving and self._current[1] in sending:
            return []
        self._current = None
        lost = self._log("warning", "ESP: the kernel's associations were removed; agreeing anew")
        if not self._opens:
            return [lost, self._tell(Renew())] if self._secret else [lost]
        self._propose_at = min(self._propose_at, now)
        return [lost, *self.handle_timeout(now)]

    def handle_timeout(self, now: float) -> list[FastEffect]:
        effects: list[FastEffect] = []
        if self._ends is not None and any(at <= now for at in self._receiving.values()):
            self._receiving = {spi: at for spi, at in self._receiving.items() if at > now}
            effects.append(self._keep(self._ends, receiving=True))
        if self._opens and self._secret and self._ends is not None and now >= self._propose_at:
            self._proposed_at = now
            self._propose_at = now + RETRY_S
            self._exchange = _Exchange(self._nonce(), self._spi())
            effects.append(self._tell(Propose(self._exchange.nonce, self._exchange.spi)))
        return effects

    # --- one exchange ------------------------------------------------------------------------

    def _answer(self, asked: Propose, ends: Ends) -> list[FastEffect]:
        self._asked = None
        exchange = _Exchange(self._nonce(), self._spi(), asked.nonce, asked.spi)
        exchange.keys = derive_keys(self._secret, exchange.nonce, asked.nonce, opens=False)
        self._exchange = exchange
        return [self._receive_by(exchange, exchange.keys, ends)]

    def _answered(self, answer: Answer) -> list[FastEffect]:
        exchange = self._exchange
        if exchange is None or self._ends is None or answer.proposed != exchange.nonce:
            return []  # to a proposal that we have given up
        if exchange.keys is not None:
            return []
        keys = derive_keys(self._secret, exchange.nonce, answer.nonce, opens=True)
        _check(answer.proof, keys)
        exchange.keys, exchange.their_nonce, exchange.their_spi = keys, answer.nonce, answer.spi
        return [self._receive_by(exchange, keys, self._ends)]

    def _confirmed(self, confirm: Confirm) -> list[FastEffect]:
        exchange = self._exchange
        if exchange is None or self._ends is None or confirm.answered != exchange.nonce:
            return []
        if exchange.keys is None or not exchange.receives:
            return []
        _check(confirm.proof, exchange.keys)
        return [self._send_by(exchange, exchange.keys, self._ends)]

    def _receives(self, exchange: _Exchange, keys: Keys, ends: Ends) -> FastEffect:
        """Only now may the other end hear of it."""
        if self._opens:
            return self._send_by(exchange, keys, ends)
        answer = Answer(exchange.their_nonce, exchange.nonce, exchange.spi, keys.our_proof)
        return self._tell(answer)

    def _bound(self, ends: Ends) -> list[FastEffect]:
        if len(self._receiving) <= MAX_RECEIVING:
            return []
        self._receiving = dict(list(self._receiving.items())[-MAX_RECEIVING:])
        return [self._keep(ends, receiving=True)]

    def _switched(
        self, exchange: _Exchange, keys: Keys, ends: Ends, now: float
    ) -> list[FastEffect]:
        """We send by the new key."""
        self._current = exchange.spi, exchange.their_spi
        self.error = ""
        self._propose_at = now + self._rekey_s
        if self._opens:
            told = self._tell(Confirm(exchange.their_nonce, keys.our_proof))
        else:
            self._over(exchange, now)
            told = self._tell(Done(exchange.nonce))
        return [self._keep(ends, receiving=False), told]

    def _over(self, exchange: _Exchange, now: float) -> None:
        """So does the other end: by what was before, only what is under way still comes."""
        self._exchange = None
        for spi, at in self._receiving.items():
            if spi != exchange.spi:
                self._receiving[spi] = min(at, now + OLD_S)

    # --- effects -----------------------------------------------------------------------------

    def _receive_by(self, exchange: _Exchange, keys: Keys, ends: Ends) -> AddAssociation:
        added = Association(exchange.spi, keys.receiving, ends.local_host, ends.remote_host)
        return AddAssociation(self._peer, ends.short_id, added)

    def _send_by(self, exchange: _Exchange, keys: Keys, ends: Ends) -> AddAssociation:
        added = Association(exchange.their_spi, keys.sending, "", ends.remote_host)
        return AddAssociation(self._peer, ends.short_id, added)

    def _keep(self, ends: Ends, *, receiving: bool) -> KeepAssociations:
        """What is in use, or about to be; with `receiving`, also of that end the rest."""
        exchange = self._exchange
        used = [self._current] if self._current is not None else []
        if exchange is not None:
            used.append((exchange.spi, exchange.their_spi))
        return KeepAssociations(
            self._peer,
            ends.short_id,
            sending=tuple(spi for _, spi in used),
            receiving=(*self._receiving, *(spi for spi, _ in used)) if receiving else None,
        )

    def _tell(self, message: EspMessage) -> TellPeer:
        return TellPeer(self._peer, encode_message(message))

    def _log(self, level: str, text: str) -> LogLine:
        return LogLine(level, text, (("peer", self._peer),))

    def _nonce(self) -> bytes:
        return self._rng.randbytes(NONCE_BYTES)

    def _spi(self) -> int:
        while True:
            spi = self._rng.randrange(FIRST_SPI, 1 << 32)
            if spi not in self._receiving:
                return spi


def packet_bytes(mtu_bytes: int, version: int) -> int:
    """How large a packet of the overlay becomes: inside out, Ethernet 14, VXLAN 8, UDP 8, ESP's
    trailer 2 with padding to 4, ESP's header 8, nonce 8 and tag 16, IP."""
    inner_bytes = mtu_bytes + 14 + 8 + 8 + 2
    return (inner_bytes + 3 & ~3) + 8 + 8 + 16 + (20 if version == 4 else 40)


def largest_mtu(underlay_mtu_bytes: int, version: int) -> int:
    """The overlay's, whose packets fit the underlay."""
    mtu_bytes = underlay_mtu_bytes - packet_bytes(0, version)
    while packet_bytes(mtu_bytes + 1, version) <= underlay_mtu_bytes:
        mtu_bytes += 1
    return mtu_bytes


def derive_keys(secret: bytes, our_nonce: bytes, their_nonce: bytes, *, opens: bool) -> Keys:
    """`secret` is that of the control connection; the opener's nonce comes first."""
    nonces = our_nonce + their_nonce if opens else their_nonce + our_nonce
    length = 2 * KEY_BYTES + 2 * PROOF_BYTES
    derived = HKDF(SHA256(), length, salt=nonces, info=_LABEL).derive(secret)
    of_opener, of_answerer = derived[:KEY_BYTES], derived[KEY_BYTES : 2 * KEY_BYTES]
    opener_proof, answerer_proof = derived[-2 * PROOF_BYTES : -PROOF_BYTES], derived[-PROOF_BYTES:]
    if opens:
        return Keys(of_opener, of_answerer, opener_proof, answerer_proof)
    return Keys(of_answerer, of_opener, answerer_proof, opener_proof)


def _check(proof: bytes, keys: Keys) -> None:
    if not compare_digest(proof, keys.their_proof):
        raise ProtocolError("ESP: the other end has come to other keys")
