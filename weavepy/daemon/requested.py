"""Addresses that pods of Kubernetes ask for, by the annotation `weavepy.io/addresses`.

Whether pods may is for the administrator to say (`--allow-requested-addresses`): who may choose an
address may wait for one that others trust to become free. A pod that asks and may not, or asks for
what it cannot have, gets none: it would rely on an address that is not its own.
"""

import asyncio
import ipaddress
from collections.abc import Callable

from kube.core.pods import WANTED
from weavepy.base.errors import UsageError
from weavepy.client import schema
from weavepy.daemon.addresses import MAX_ADDRESSES, Interface, Network
from weavepy.daemon.api import NotReady

INTERFACE = "eth0"
"""Of a pod's interfaces the one that Kubernetes knows, and that the annotation is about."""

KNOWN_WITHIN_S = 2.0
POLL_S = 0.02

Annotation = Callable[[str, str], str | None]
"""What a pod's annotation says, by the pod's "NAMESPACE/NAME" and uid; "" for nothing, None while
the pod is not known."""


class RequestedAddresses:
    def __init__(self, annotation: Annotation, allowed: bool) -> None:
        self._annotation = annotation
        self._allowed = allowed

    async def of(self, request: schema.CniAddRequest, subnet: Network) -> list[Interface]:
        """Empty if the pod asks for none, and any will do."""
        if not request.pod or request.interface != INTERFACE:
            return []
        text = await self._said(request)
        if not text:
            return []
        if not self._allowed:
            raise UsageError(
                f"{request.pod} asks for {text} by {WANTED}, and pods may not: remove the"
                " annotation, or start the routers with --allow-requested-addresses"
            )
        words = [word.strip() for word in text.split(",")]
        if len(words) > MAX_ADDRESSES:
            raise UsageError(f"{request.pod}: {WANTED} has more than {MAX_ADDRESSES} addresses")
        return [_parse(request.pod, word, subnet) for word in dict.fromkeys(words)]

    async def _said(self, request: schema.CniAddRequest) -> str:
        """A pod's object comes on its way while kubelet starts it, so it is waited for."""
        deadline = asyncio.get_running_loop().time() + KNOWN_WITHIN_S
        while (text := self._annotation(request.pod, request.pod_uid)) is None:
            if asyncio.get_running_loop().time() >= deadline:
                if not self._allowed:
                    return ""
                raise NotReady(
                    f"the API server has not told of {request.pod}, which may ask for an address"
                )
            await asyncio.sleep(POLL_S)
        return text


def _parse(pod: str, text: str, subnet: Network) -> Interface:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise UsageError(f"{pod}: {WANTED} has {text!r}, which is no address") from error
    if address not in subnet:
        raise UsageError(f"{pod} asks for {text}, which is not in the network's subnet {subnet}")
    return ipaddress.ip_interface(f"{address}/{subnet.prefixlen}")
