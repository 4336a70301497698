"""Taking up what the disk held at start."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ipam.core.effects import Saved
from ipam.core.messages import ForeignUniverse
from ipam.core.ranges import Network
from ipam.core.replica import Replica
from ipam.core.space import Space
from weavepy.base.errors import ProtocolError, WeavepyError


def load(
    saved: Saved,
    replica: Replica,
    space: Space,
    network: Network,
    known_owners: Collection[str] | None,
    now: float,
) -> None:
    """Restore ring and addresses; addresses of owners that are not among the known cool down.

    Raises `WeavepyError` if the ring cannot be used, with what to do about it.
    """
    if saved.ring is not None:
        try:
            replica.restore(saved.ring)
        except ForeignUniverse as error:
            raise WeavepyError(
                f"the stored address ring is for {error.universe}, not for {network}:"
                f" launch with --ipalloc-range {error.universe}, or run `weavepy reset` to"
                " leave that ring"
            ) from error
        except ProtocolError as error:
            raise WeavepyError(
                f"the stored address ring cannot be read ({error}): move the database aside"
                " and start again; the ring is learnt anew from the other hosts"
            ) from error
    for row in saved.addresses:
        space.use(replace(row, freed_at=None))
        gone = known_owners is not None and row.owner not in known_owners
        if row.freed_at is not None or gone:
            space.cool(row.address, now)
