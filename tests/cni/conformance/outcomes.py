"""What cases say of a plugin's outcome, and the steps that most of them begin with."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.cni.conformance.shapes import wrong_in_error
from tests.cni.conformance.target import Outcome, Sandbox, Target


def succeeded(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, str(outcome)
    return outcome


def failed(outcome: Outcome, version: str, code: int = 0) -> Outcome:
    """With an error in the form of the specification; `code` if it names one for this."""
    assert outcome.code != 0, f"it should fail: {outcome}"
    assert wrong_in_error(version, outcome.answer) == [], str(outcome)
    assert code in (0, outcome.answer["code"]), str(outcome)
    return outcome


def added(box: Sandbox, version: str, **more: Any) -> dict[str, Any]:
    result = succeeded(box.call("ADD", version, **more)).answer
    assert isinstance(result, dict)
    return result


def addresses_of(result: dict[str, Any]) -> set[str]:
    return {ip["address"] for ip in result["ips"]}


@contextlib.contextmanager
def checked(target: Target, version: str) -> Iterator[tuple[Sandbox, dict[str, Any]]]:
    with target.sandbox() as box:
        yield box, added(box, version)
