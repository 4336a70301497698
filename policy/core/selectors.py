"""Label selectors in a normal form, so that equal selectors are equal values.

A selector is the conjunction of its requirements; without any it selects everything. `matchLabels`
is `In` with one value. The normal form (sorted, without repetition) is what lets two policies that
say the same share one set of addresses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                # Of what lacks the key, too.
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels

    def __str__(self) -> str:
        match self.operator:
            case "In" if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case "In" | "NotIn":
                word = "in" if self.operator == "In" else "not in"
                return f"{self.key} {word} ({', '.join(self.values)})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    requirements: tuple[Requirement, ...] = ()
    """Sorted, each once; all must hold."""

    def matches(self, labels: Labels) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def anchors(self) -> tuple[tuple[str, str], ...]:
        """Label pairs of which whatever is selected has one; empty if there are no such pairs."""
        required = [one for one in self.requirements if one.operator == "In"]
        if not required:
            return ()
        narrowest = min(required, key=lambda one: len(one.values))
        return tuple((narrowest.key, value) for value in narrowest.values)

    def __str__(self) -> str:
        return " and ".join(str(one) for one in self.requirements) or "everything"


EVERYTHING = Selector()
