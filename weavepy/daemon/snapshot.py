"""What the API server said last, on disk: so a router that starts without it has its policies.

It is a copy, and a moment old. One that cannot be read is as good as none, and what is known anew
replaces it whole. `Keeper` writes it: what changes of policies and namespaces at once, what
changes of pods some seconds later, and with large clusters no more often than disks like.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from kube.core.pods import Namespace, NetworkPolicy, Pod
from kube.core.watch import Change
from weavepy.base.errors import WeavepyError
from weavepy.daemon.files import replace_file

log = logging.getLogger(__name__)

VERSION = 1
MAX_BYTES = 256 * 1024 * 1024
"""Some 500,000 pods."""

SAVE_S = 5.0
"""What changed of pods is on disk so much later."""
SAVE_SHARE = 50
"""After saving there is a pause of this many times as long as it took."""

AnyChange = Change[Namespace] | Change[NetworkPolicy] | Change[Pod]


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int = VERSION
    namespaces: tuple[Namespace, ...] = ()
    policies: tuple[NetworkPolicy, ...] = ()
    pods: tuple[Pod, ...] = ()

    def changes(self) -> Iterator[AnyChange]:
        """From nothing to this."""
        for namespace in self.namespaces:
            yield Change(namespace)
        for policy in self.policies:
            yield Change(policy)
        for pod in self.pods:
            yield Change(pod)


class Keeper:
    """Call `changed`, and have `keep_for_ever` as a task. `take` says what is so now."""

    def __init__(self, file: Path, take: Callable[[], Snapshot]) -> None:
        self._file = file
        self._take = take
        self._changed = asyncio.Event()
        self._at_once = asyncio.Event()
        self._saving: asyncio.Future[None] | None = None

    def changed(self, at_once: bool) -> None:
        self._changed.set()
        if at_once:
            self._at_once.set()

    async def keep_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(SAVE_S):
                    await self._at_once.wait()
            began = loop.time()
            await self._save()
            await asyncio.sleep(SAVE_SHARE * (loop.time() - began))

    async def close(self) -> None:
        """When the task has ended: the last change is not lost."""
        if self._saving is not None:
            await asyncio.wait([self._saving])
        if self._changed.is_set():
            await self._save()

    async def _save(self) -> None:
        self._changed.clear()
        self._at_once.clear()
        self._saving = asyncio.ensure_future(asyncio.to_thread(save, self._file, self._take()))
        try:
            # Two at once would write the same file: whoever is cancelled leaves it to finish.
            await asyncio.shield(self._saving)
        except WeavepyError as error:
            log.warning("what the API server said will not be known after a restart: %s", error)


def load(file: Path) -> Snapshot | None:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise WeavepyError("it is too large")
        found = msgspec.json.decode(file.read_bytes(), type=Snapshot)
        if found.version != VERSION:
            raise WeavepyError(f"it is of version {found.version}")
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, WeavepyError) as error:
        log.warning("what the API server said is not remembered: %s: %s", file, error)
        return None
    return found


def save(file: Path, snapshot: Snapshot) -> None:
    """Raises `WeavepyError`; then the one before is still there."""
    content = msgspec.json.encode(snapshot)
    if len(content) > MAX_BYTES:
        raise WeavepyError(f"{len(content)} bytes are too many for {file}")
    replace_file(file, content)
