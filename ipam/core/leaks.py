"""Addresses that are in use by attachments which are gone.

A container that ends without a word leaves its addresses in use: a leak. What the kernel shows is
compared with what is recorded, and an attachment that has no interface in two sightings in a row
has its addresses freed. One sighting would not do: an attachment gets its addresses a moment
before its interface. Owners that were named by hand have no interface to look for and are left
alone, and so is every address that any interface has, whoever it was recorded for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ipam.core.effects import PersistedAddress, RunningAddress

SIGHTINGS_APART_S = 20.0
"""Two looks at the same moment are one sighting."""


class LeakWatch:
    def __init__(self) -> None:
        self._missed: dict[tuple[int, str], float] = {}
        """Address and owner to when they were first found without an interface."""

    def look(
        self,
        rows: Iterable[PersistedAddress],
        live: Sequence[RunningAddress],
        busy: Iterable[str],
        now: float,
    ) -> list[PersistedAddress]:
        """Return the rows whose attachment was missing before and still is.

        `busy` are owners for whom an attachment is just being made or undone.
        """
        owners = {*(one.owner for one in live), *busy}
        addresses = {one.address for one in live}
        missing = {
            (row.address, row.owner): row
            for row in rows
            if row.kind == "attachment" and row.owner not in owners and row.address not in addresses
        }
        self._missed = {key: self._missed.get(key, now) for key in missing}
        return [row for key, row in missing.items() if self._missed[key] + SIGHTINGS_APART_S <= now]
