"""What `policy.core.roster` comes to, said all at once: the model of its changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from policy.core.objects import Address, Key, Pod
from policy.core.roster import Attached, pod_of


def everything(
    here: str,
    applied: Iterable[Pod],
    attached: Iterable[Attached],
    elsewhere: Mapping[str, Sequence[Attached]],
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
            pod = pod_of(one, nickname, here)
            if one.identity is None and any(address in claimed for address in pod.addresses):
                continue
            pods[pod.key] = pod
    return pods
