"""The exact line to run on the next host, with an address that it can likely reach."""

import array
import fcntl
import socket
import struct

from router.mesh.secret import encode_token
from weavepy.base.settings import DEFAULT_PORT
from weavepy.daemon.options import Options

_SOMEWHERE_ELSE = "192.0.2.1"
"""An address of RFC 5737, which is nobody's. Nothing is sent to it: only the route matters."""

_SIOCGIFADDR = 0x8915
_IFREQ_BYTES = 40


def invitation(options: Options, origin: str) -> str:
    """Return the command for the next host; without the secret if it never was in our hands."""
    host = best_local_address(options)
    if options.port != DEFAULT_PORT:
        host = f"[{host}]:{options.port}" if ":" in host else f"{host}:{options.port}"
    if origin == "password":
        return f"weavepy launch --detach --password-file FILE {host}"
    if not options.encrypted:
        return f"weavepy launch --detach --insecure {host}"
    return f"weavepy join {encode_token(options.secret)} {host}"


def best_local_address(options: Options) -> str:
    """Return the address towards a given peer, else towards the world, else any, else our name."""
    for peer in (*options.peers, _SOMEWHERE_ELSE):
        address = _address_towards(peer)
        if address:
            return address
    return _any_address(options.bridge) or socket.gethostname()


def _address_towards(peer: str) -> str:
    host = peer
    if peer.startswith("["):
        host = peer[1:].partition("]")[0]
    elif peer.count(":") == 1:
        host = peer.partition(":")[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Only numbers: looking up a name may take longer than anyone wants to wait here.
            socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
            probe.connect((host, DEFAULT_PORT))
            address = str(probe.getsockname()[0])
    except OSError:
        return ""
    return "" if address.startswith("127.") or address == "::1" else address


def _any_address(bridge: str) -> str:
    """Return an IPv4 address of an interface that is neither loopback nor ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            if name in ("lo", bridge):
                continue
            request = array.array("B", name.encode().ljust(_IFREQ_BYTES, b"\0"))
            try:
                fcntl.ioctl(probe, _SIOCGIFADDR, request)
            except OSError:
                continue
            (address,) = struct.unpack_from("20x4s", request)
            return socket.inet_ntoa(address)
    return ""
