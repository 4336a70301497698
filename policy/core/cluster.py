"""Which pods there are where an API server says so, and which of them are attached to this host.

The server knows pods, and some time after their start their addresses. This host knows who is
attached to it, with which addresses, before anybody else does; so of those it is believed and not
the server: an attached pod has the addresses of its attachments, and they are nobody else's.

An attachment of which the server has not said yet what pod it is (or of which it knows only one
of the same name that was there before) is *unknown*: closed, whatever the policies say. What has
no pod's name is no pod of the cluster, and nothing is known here of it.

Events come in any order, and what comes out depends on the present facts alone.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from policy.core.objects import Address, Key, Pod
from policy.core.policies import Policies

Name = TypeVar("Name", bound=Hashable)

ATTACHED = "attached"
"""In front of when it was created: later than all that is elsewhere."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a container runtime says whom it attaches. Not all of it is always there."""

    pod: Key | None = None
    uid: str = ""

    @classmethod
    def named(cls, pod: str, uid: str = "") -> "Runtime":
        """`pod` is "NAMESPACE/NAME", or something else that names no pod."""
        namespace, _, name = pod.partition("/")
        return cls((namespace, name) if name else None, uid)

    @property
    def is_pod(self) -> bool:
        return self.pod is not None or bool(self.uid)


NO_POD = Runtime()


@dataclass(frozen=True, slots=True)
class _Attachment:
    runtime: Runtime
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class _Listed:
    pod: Pod
    uid: str


class Cluster:
    """Feeds `policies` with pods; the node of those that are attached is `here`, of others ""."""

    def __init__(self, policies: Policies, here: str) -> None:
        self._policies = policies
        self._here = here
        self._listed: dict[Key, _Listed] = {}
        self._attached: dict[str, _Attachment] = {}
        """By owner."""
        self._by_name: dict[Key, dict[str, None]] = {}
        self._by_uid: dict[str, dict[str, None]] = {}
        """Owners that have no name."""

    # --- events ----------------------------------------------------------------------------------

    def handle_pod(self, pod: Pod, uid: str) -> None:
        before = self._listed.get(pod.key)
        self._listed[pod.key] = _Listed(pod, uid)
        self._place(pod.key, uid, before.uid if before is not None else uid)

    def handle_pod_removed(self, key: Key) -> None:
        before = self._listed.pop(key, None)
        if before is not None:
            self._place(key, before.uid)

    def handle_attached(
        self, owner: str, addresses: Iterable[Address], runtime: Runtime = NO_POD
    ) -> None:
        """It has these addresses, too, and nobody else here has them any more."""
        for other in [*self._attached]:
            self.handle_detached(other, addresses)
        known = self._attached.get(owner)
        if known is not None:
            self._detach(owner)
            addresses = (*known.addresses, *addresses)
            runtime = runtime if runtime.is_pod else known.runtime
        self._attach(owner, tuple(dict.fromkeys(addresses)), runtime)

    def handle_detached(self, owner: str, addresses: Iterable[Address] = ()) -> None:
        """It has these addresses no more, or none at all."""
        known = self._attached.get(owner)
        if known is None:
            return
        gone = set(addresses or known.addresses)
        left = tuple(one for one in known.addresses if one not in gone)
        if left != known.addresses:
            self._detach(owner)
            if left:
                self._attach(owner, left, known.runtime)

    # --- questions -------------------------------------------------------------------------------

    def is_unknown(self, owner: str) -> bool:
        """Whether it is closed, for want of the pod that it belongs to."""
        return _unknown_key(owner) in self._policies.pods

    # ---------------------------------------------------------------------------------------------

    def _attach(self, owner: str, addresses: tuple[Address, ...], runtime: Runtime) -> None:
        self._attached[owner] = _Attachment(runtime, addresses)
        if runtime.pod is not None:
            self._by_name.setdefault(runtime.pod, {})[owner] = None
        elif runtime.uid:
            self._by_uid.setdefault(runtime.uid, {})[owner] = None
            self._close(owner)
        self._place_pod_of(runtime)

    def _detach(self, owner: str) -> None:
        runtime = self._attached.pop(owner).runtime
        if runtime.pod is not None:
            _take(self._by_name, runtime.pod, owner)
        elif runtime.uid:
            _take(self._by_uid, runtime.uid, owner)
        self._policies.handle_pod_removed(_unknown_key(owner))
        self._place_pod_of(runtime)

    def _place_pod_of(self, runtime: Runtime) -> None:
        key = runtime.pod
        if key is None and runtime.uid:
            key = next((key for key, one in self._listed.items() if one.uid == runtime.uid), None)
        if key is not None:
            self._place(key, runtime.uid)

    def _place(self, key: Key, *uids: str) -> None:
        """Have in the policies what this pod is now, and those who may be it: by its name, or by
        one of these uids."""
        listed = self._listed.get(key)
        owners = {**self._by_name.get(key, {})}
        for uid in uids:
            owners |= self._by_uid.get(uid, {})
        addresses: dict[Address, None] = {}
        for owner in sorted(owners):
            attachment = self._attached[owner]
            if listed is not None and attachment.runtime.uid in ("", listed.uid):
                addresses.update(dict.fromkeys(attachment.addresses))
                self._policies.handle_pod_removed(_unknown_key(owner))
            else:
                self._close(owner)
        if listed is None:
            self._policies.handle_pod_removed(key)
        elif addresses:
            created = f"{ATTACHED} {listed.pod.created}"
            self._policies.handle_pod(
                replace(listed.pod, addresses=tuple(addresses), node=self._here, created=created)
            )
        else:
            self._policies.handle_pod(replace(listed.pod, node=""))

    def _close(self, owner: str) -> None:
        namespace, name = _unknown_key(owner)
        addresses = self._attached[owner].addresses
        self._policies.handle_pod(
            Pod(
                namespace,
                name,
                addresses=addresses,
                node=self._here,
                created=ATTACHED,
                unknown=True,
            )
        )


def _unknown_key(owner: str) -> Key:
    """There is no namespace without a name."""
    return "", owner


def _take(owners: dict[Name, dict[str, None]], name: Name, owner: str) -> None:
    del owners[name][owner]
    if not owners[name]:
        del owners[name]
