"""Two indexes from label pairs, one for each side of "does this selector select that?".

A selector that requires a label pair can only select what has that pair, so both sides meet there
(`Selector.anchors`). What is found are candidates: the caller asks the selector itself. Selectors
without such a pair are candidates for everything in their namespace. Both indexes
are deterministic: they give things in the order in which they came.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from policy.core.selectors import Labels, Selector

Item = TypeVar("Item", bound=Hashable)
Anchor = tuple[str, str] | None
Place = tuple[str, Anchor]


class LabelledThings(Generic[Item]):
    """Things with labels in namespaces, to be found by selectors."""

    def __init__(self) -> None:
        self._places: dict[Place, dict[Item, None]] = {}

    def add(self, namespace: str, labels: Labels, item: Item) -> None:
        for anchor in (None, *labels.items()):
            self._places.setdefault((namespace, anchor), {})[item] = None

    def remove(self, namespace: str, labels: Labels, item: Item) -> None:
        for anchor in (None, *labels.items()):
            _take(self._places, (namespace, anchor), item)

    def candidates(self, namespace: str, selector: Selector) -> Iterator[Item]:
        for anchor in selector.anchors() or (None,):
            yield from self._places.get((namespace, anchor), ())


class Selections(Generic[Item]):
    """Things that select in namespaces, to be found by what they may select."""

    def __init__(self) -> None:
        self._places: dict[Place, dict[Item, None]] = {}

    def add(self, namespace: str, selector: Selector, item: Item) -> None:
        for anchor in selector.anchors() or (None,):
            self._places.setdefault((namespace, anchor), {})[item] = None

    def remove(self, namespace: str, selector: Selector, item: Item) -> None:
        for anchor in selector.anchors() or (None,):
            _take(self._places, (namespace, anchor), item)

    def candidates(self, namespace: str, labels: Labels) -> Iterator[Item]:
        for anchor in (None, *labels.items()):
            yield from self._places.get((namespace, anchor), ())


def _take(places: dict[Place, dict[Item, None]], place: Place, item: Item) -> None:
    items = places[place]
    del items[item]
    if not items:
        del places[place]
