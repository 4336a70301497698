"""Which pods there are where no Kubernetes says so: attachments, here and elsewhere, and objects.

Every attachment is a pod: of the namespace `default`, named like its network namespace, without
labels, unless `attach` was told otherwise. What other hosts attached carries their nickname
(`web@host2`), so that hosts need not agree on names. A Pod that an operator applied by hand stands
for the address it lists: an attachment of which nothing was said is that pod then.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from policy.core.objects import Address, Key, Pod

DEFAULT_NAMESPACE = "default"
RUNTIME = "cni:"
"""What owners begin with that a container runtime attached."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What `attach` was told that an attachment is."""

    namespace: str = DEFAULT_NAMESPACE
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attached:
    owner: str
    addresses: tuple[Address, ...]
    identity: Identity | None = None


def roster(
    here: str,
    applied: Iterable[Pod],
    attached: Iterable[Attached],
    elsewhere: Mapping[str, Iterable[Attached]],
) -> dict[Key, Pod]:
    """All pods; those whose node is `here` have their address on this host.

    `elsewhere` has other hosts' attachments, by nickname.
    """
    local = [*attached]
    local_addresses = {address for one in local for address in one.addresses}
    pods: dict[Key, Pod] = {}
    claimed: dict[Address, None] = {}
    for pod in applied:
        claimed.update(dict.fromkeys(pod.addresses))
        is_here = any(address in local_addresses for address in pod.addresses)
        pods[pod.key] = replace(pod, node=here if is_here else "")
    for nickname, listed in (("", local), *sorted(elsewhere.items())):
        for one in listed:
            if nickname:
                # What is here cannot be there, whatever an old entry says.
                away = tuple(it for it in one.addresses if it not in local_addresses)
                one = replace(one, addresses=away)
            pod = _pod(one, nickname, here)
            if one.identity is None and any(address in claimed for address in pod.addresses):
                continue
            pods[pod.key] = pod
    return pods


@lru_cache(maxsize=65_536)
def plain_name(owner: str) -> str:
    """What an attachment is called as a pod: the last part of its path, or its container's id.

    What a container runtime attached ("cni:NETWORK/CONTAINER/INTERFACE") is a pod per interface.
    """
    last = owner.rpartition("/")[2]
    if owner.startswith(RUNTIME):
        last = "-".join(owner.split("/")[1:])
    return re.sub(r"[^a-z0-9.-]", "-", last.lower()).strip("-.") or "unnamed"


def _pod(one: Attached, nickname: str, here: str) -> Pod:
    identity = one.identity or Identity()
    name = identity.name or plain_name(one.owner)
    return Pod(
        identity.namespace,
        f"{name}@{nickname}" if nickname else name,
        identity.labels,
        one.addresses,
        node="" if nickname else here,
        created="attached" if one.identity is not None else "",
    )
