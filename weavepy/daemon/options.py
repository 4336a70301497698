"""What one launch of the router was asked for, validated before anything is touched.

The command line builds `Options`, the daemon only reads them. Everything an operator can get
wrong in it is refused here with a `UsageError` that names the flag and says what would be right.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass, field, replace

from fastdp.core.policy import MODES, Mode
from kube.shell.server import ApiServer
from router.mesh.records import MAX_ADDRESSES
from weavepy.base.errors import UsageError
from weavepy.base.names import (
    MAX_NICKNAME_LENGTH,
    MAX_PEERS,
    PeerName,
    is_ip_address,
    parse_peer_name,
)
from weavepy.base.settings import DEFAULT_PORT, HTTP_PORT, Directories, directories

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOG_LEVELS = ("debug", "info", "warning", "error")

DEFAULT_RANGE = "10.32.0.0/12"
DEFAULT_BRIDGE = "weave"
DEFAULT_CONNECTION_LIMIT = 100
FASTDP_MODES = MODES
DEFAULT_ESP_REKEY_S = 120
MAX_ESP_REKEY_S = 3600
DEFAULT_HTTP_ADDRESS = f"127.0.0.1:{HTTP_PORT}"

HTTP_OFF = "off"
"""The value of `--http-addr` that asks for no read-only listener."""

MIN_MTU_BYTES = 576
MAX_MTU_BYTES = 65_000

MAX_INTERFACE_NAME_LENGTH = 15
"""IFNAMSIZ of Linux, less the closing zero."""

MIN_RANGE_ADDRESSES = 4
"""A smaller universe holds its network and broadcast address and nearly nothing else."""

_HOST_PATTERN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


@dataclass(frozen=True, slots=True)
class RingStart:
    """How the first ring comes to be: `--ipalloc-init`."""

    mode: str
    """One of "consensus", "seed" or "observer"."""
    initial_peers: int | None = None
    """With "consensus": how many peers the mesh starts with; None: count those that we know."""
    seeds: tuple[PeerName, ...] = ()
    """With "seed": the peers that divide the universe; every one of them is told the same."""

    def __str__(self) -> str:
        if self.mode == "seed":
            return f"seed={','.join(self.seeds)}"
        return self.mode if self.initial_peers is None else f"{self.mode}={self.initial_peers}"


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """What makes a router one of a Kubernetes cluster: `weavepy kube`."""

    node_name: str
    server: ApiServer
    register: tuple[str, str]
    """Namespace and name of the ConfigMap that holds what is decided once."""
    requested_addresses: bool = False
    """Whether pods may ask for addresses, by annotation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All of a launch. `Options.parse` is how to make one from what an operator typed."""

    secret: bytes = field(default=b"", repr=False)
    """32 bytes, once `with_secret` has set it; never shown, logged or reported."""
    encrypted: bool = True
    peers: tuple[str, ...] = ()
    """The given targets, each "host", "host:port" or "[v6]:port"."""
    nickname: str
    port: int = DEFAULT_PORT
    """TCP for control and UDP for sleeve."""
    http_address: tuple[str, int] | None = ("127.0.0.1", HTTP_PORT)
    """Where the read-only listener is; None for nowhere."""
    discovery: bool = True
    resume: bool = True
    """Dial the targets that the last run knew as well."""
    connection_limit: int = DEFAULT_CONNECTION_LIMIT
    advertise: tuple[str, ...] = ()
    """Where other peers shall dial this one, like `peers`; empty: find out."""
    ipam: bool = True
    universe: Network = field(default_factory=lambda: ipaddress.ip_network(DEFAULT_RANGE))
    default_subnet: Network = field(default_factory=lambda: ipaddress.ip_network(DEFAULT_RANGE))
    ring_start: RingStart = RingStart("consensus")
    mtu_bytes: int | None = None
    """The overlay's MTU; None: derive it from the underlay's."""
    bridge: str = DEFAULT_BRIDGE
    offload: bool = True
    fastdp: Mode = "auto"
    trusted_subnets: tuple[Network, ...] = ()
    """Of the underlay: between hosts in them frames may go unencrypted by the fast path."""
    esp_rekey_s: int = DEFAULT_ESP_REKEY_S
    """How often the keys of encrypted tunnels are renewed."""
    log_level: str = "info"
    separate_datapath: bool = False
    """Somebody else starts and ends it, with `weavepy datapath`."""
    kubernetes: KubernetesOptions | None = None
    """None outside of Kubernetes."""
    directories: Directories

    @classmethod
    def parse(
        cls,
        *,
        peers: tuple[str, ...] = (),
        nickname: str | None = None,
        port: int = DEFAULT_PORT,
        http_addr: str = DEFAULT_HTTP_ADDRESS,
        discovery: bool = True,
        resume: bool = True,
        connection_limit: int = DEFAULT_CONNECTION_LIMIT,
        advertise: tuple[str, ...] = (),
        ipam: bool = True,
        ipalloc_range: str = DEFAULT_RANGE,
        ipalloc_default_subnet: str | None = None,
        ipalloc_init: str = "consensus",
        mtu: int | None = None,
        bridge: str = DEFAULT_BRIDGE,
        offload: bool = True,
        fastdp: str = "auto",
        trusted_subnets: str = "",
        esp_rekey: int = DEFAULT_ESP_REKEY_S,
        log_level: str = "info",
        where: Directories | None = None,
    ) -> "Options":
        """Check everything; raises `UsageError` with the first thing that is wrong."""
        universe = parse_network("--ipalloc-range", ipalloc_range)
        if universe.num_addresses < MIN_RANGE_ADDRESSES:
            raise UsageError(
                f"--ipalloc-range {universe} is too small: it needs at least"
                f" {MIN_RANGE_ADDRESSES} addresses"
            )
        return cls(
            peers=tuple(check_target(peer) for peer in peers),
            nickname=_parse_nickname(nickname),
            port=_parse_port("--port", str(port)),
            http_address=_parse_http_address(http_addr),
            discovery=discovery,
            resume=resume,
            connection_limit=_parse_connection_limit(connection_limit),
            advertise=_parse_advertise(advertise),
            ipam=ipam,
            universe=universe,
            default_subnet=_parse_default_subnet(ipalloc_default_subnet, universe),
            ring_start=parse_ring_start(ipalloc_init),
            mtu_bytes=_parse_mtu(mtu),
            bridge=_parse_bridge(bridge),
            offload=offload,
            fastdp=_parse_fastdp(fastdp),
            trusted_subnets=_parse_trusted(trusted_subnets),
            esp_rekey_s=_parse_esp_rekey(esp_rekey),
            log_level=_parse_log_level(log_level),
            directories=where or directories(),
        )

    def with_secret(self, secret: bytes, encrypted: bool) -> "Options":
        """Return what can be launched: nothing was read or created before all else was checked."""
        assert len(secret) == 32
        return replace(self, secret=secret, encrypted=encrypted)

    def arguments(self) -> list[str]:
        """Return the arguments of a `weavepy launch` that asks for the same, without the secret."""
        flags = {
            "--nickname": self.nickname,
            "--port": str(self.port),
            "--http-addr": self._http_addr(),
            "--connection-limit": str(self.connection_limit),
            "--ipalloc-range": str(self.universe),
            "--ipalloc-default-subnet": str(self.default_subnet),
            "--ipalloc-init": str(self.ring_start),
            "--bridge": self.bridge,
            "--fastdp": self.fastdp,
            "--esp-rekey": str(self.esp_rekey_s),
            "--log-level": self.log_level,
        }
        if self.mtu_bytes is not None:
            flags["--mtu"] = str(self.mtu_bytes)
        if self.trusted_subnets:
            flags["--trusted-subnets"] = self._trusted()
        switches = {
            "--no-discovery": not self.discovery,
            "--no-resume": not self.resume,
            "--no-ipam": not self.ipam,
            "--no-offload": not self.offload,
        }
        return [
            *(f"{flag}={value}" for flag, value in flags.items()),
            *(f"--advertise={address}" for address in self.advertise),
            *(switch for switch, wanted in switches.items() if wanted),
            *self.peers,
        ]

    def shown(self) -> dict[str, str]:
        """Return what a report may say of it: everything but the secret."""
        return {
            "peers": " ".join(self.peers),
            "encrypted": _yes_or_no(self.encrypted),
            "nickname": self.nickname,
            "port": str(self.port),
            "http-addr": self._http_addr(),
            "discovery": _yes_or_no(self.discovery),
            "resume": _yes_or_no(self.resume),
            "connection-limit": str(self.connection_limit),
            "advertise": " ".join(self.advertise) or "auto",
            "ipam": _yes_or_no(self.ipam),
            "ipalloc-range": str(self.universe),
            "ipalloc-default-subnet": str(self.default_subnet),
            "ipalloc-init": str(self.ring_start),
            "mtu": "auto" if self.mtu_bytes is None else str(self.mtu_bytes),
            "bridge": self.bridge,
            "offload": _yes_or_no(self.offload),
            "fastdp": self.fastdp,
            "trusted-subnets": self._trusted() or "none",
            "esp-rekey": str(self.esp_rekey_s),
            "log-level": self.log_level,
            "run-dir": str(self.directories.run),
            "state-dir": str(self.directories.state),
        }

    def _trusted(self) -> str:
        return ",".join(str(subnet) for subnet in self.trusted_subnets)

    def _http_addr(self) -> str:
        if self.http_address is None:
            return HTTP_OFF
        host, port = self.http_address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_target(text: str) -> str:
    """Return the address of a peer as typed, or raise `UsageError` if it can be none."""
    wanted = 'expected "host", "host:port" or "[v6]:port"'
    if is_ip_address(text):
        return text
    host, colon, port = text.rpartition(":")
    if not colon:
        host = text
    else:
        _parse_port(f"the peer {text!r}", port)
    if host.startswith("[") and host.endswith("]"):
        if not is_ip_address(host[1:-1]):
            raise UsageError(f"{text!r} is not the address of a peer: {wanted}")
        return text
    if not _HOST_PATTERN.fullmatch(host) or len(host) > 253:
        raise UsageError(f"{text!r} is not the address of a peer: {wanted}")
    if re.fullmatch(r"[0-9.]+", host) and not is_ip_address(host):
        raise UsageError(f"{text!r} is not the address of a peer: {host} is not an IP address")
    return text


def parse_network(flag: str, text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {_network_hint(text)}") from error


def parse_ring_start(text: str) -> RingStart:
    mode, equals, value = text.partition("=")
    if mode == "observer" and not equals:
        return RingStart("observer")
    if mode == "consensus" and not equals:
        return RingStart("consensus")
    if mode == "consensus" and value.isascii() and value.isdecimal():
        count = int(value)
        if not 1 <= count <= MAX_PEERS:
            raise UsageError(f"--ipalloc-init {text}: expected 1 to {MAX_PEERS} peers")
        return RingStart("consensus", initial_peers=count)
    if mode == "seed" and value:
        return RingStart("seed", seeds=tuple(parse_peer_name(name) for name in value.split(",")))
    raise UsageError(
        f"--ipalloc-init {text!r}: expected consensus, consensus=N, seed=PEER,PEER,... or observer"
    )


def _network_hint(text: str) -> str:
    try:
        containing = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{text!r} is not a subnet: expected one such as 10.32.0.0/12"
    return f"{text} has bits set beyond its length: did you mean {containing}?"


def _parse_default_subnet(text: str | None, universe: Network) -> Network:
    if text is None:
        return universe
    subnet = parse_network("--ipalloc-default-subnet", text)
    first, last = int(universe.network_address), int(universe.broadcast_address)
    inside = (
        subnet.version == universe.version
        and first <= int(subnet.network_address)
        and int(subnet.broadcast_address) <= last
    )
    if not inside:
        raise UsageError(
            f"--ipalloc-default-subnet {subnet} is not inside --ipalloc-range {universe}"
        )
    return subnet


def _parse_nickname(text: str | None) -> str:
    if text is None:
        return socket.gethostname()[:MAX_NICKNAME_LENGTH] or "unnamed"
    if not text or len(text) > MAX_NICKNAME_LENGTH or not text.isprintable() or " " in text:
        raise UsageError(
            f"--nickname {text!r}: expected 1 to {MAX_NICKNAME_LENGTH} printable characters"
            " without spaces"
        )
    return text


def _parse_port(what: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise UsageError(f"{what}: {text!r} is not a port: expected 1 to 65535")
    return int(text)


def _parse_http_address(text: str) -> tuple[str, int] | None:
    if text in ("", HTTP_OFF):
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not is_ip_address(host):
        raise UsageError(
            f"--http-addr {text!r}: expected ADDRESS:PORT such as {DEFAULT_HTTP_ADDRESS},"
            f" or {HTTP_OFF}"
        )
    return host, _parse_port("--http-addr", port)


def _parse_connection_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_PEERS:
        raise UsageError(f"--connection-limit {limit}: expected 1 to {MAX_PEERS}")
    return limit


def _parse_advertise(addresses: tuple[str, ...]) -> tuple[str, ...]:
    if len(addresses) > MAX_ADDRESSES:
        raise UsageError(f"--advertise can be given {MAX_ADDRESSES} times, not {len(addresses)}")
    return tuple(check_target(address) for address in addresses)


def _parse_mtu(mtu_bytes: int | None) -> int | None:
    if mtu_bytes is not None and not MIN_MTU_BYTES <= mtu_bytes <= MAX_MTU_BYTES:
        raise UsageError(f"--mtu {mtu_bytes}: expected {MIN_MTU_BYTES} to {MAX_MTU_BYTES} bytes")
    return mtu_bytes


def _parse_bridge(name: str) -> str:
    valid = (
        0 < len(name) <= MAX_INTERFACE_NAME_LENGTH
        and name.isascii()
        and name.isprintable()
        and name not in (".", "..")
        and not any(character in "/: " for character in name)
    )
    if not valid:
        raise UsageError(
            f"--bridge {name!r} cannot name an interface: expected 1 to"
            f" {MAX_INTERFACE_NAME_LENGTH} characters without '/', ':' and space"
        )
    return name


def _parse_fastdp(text: str) -> Mode:
    for mode in FASTDP_MODES:
        if text == mode:
            return mode
    raise UsageError(f"--fastdp {text!r}: expected one of {', '.join(FASTDP_MODES)}")


def _parse_trusted(text: str) -> tuple[Network, ...]:
    subnets = (part.strip() for part in text.split(","))
    return tuple(parse_network("--trusted-subnets", subnet) for subnet in subnets if subnet)


def _parse_esp_rekey(seconds: int) -> int:
    if not 1 <= seconds <= MAX_ESP_REKEY_S:
        raise UsageError(f"--esp-rekey {seconds}: expected 1 to {MAX_ESP_REKEY_S} seconds")
    return seconds


def _parse_log_level(level: str) -> str:
    if level not in LOG_LEVELS:
        raise UsageError(f"--log-level {level!r}: expected one of {', '.join(LOG_LEVELS)}")
    return level


def _yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"
