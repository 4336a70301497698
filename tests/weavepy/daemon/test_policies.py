"""Questions about policies in a large cluster: bounded, and nobody else has to wait for them."""

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from ipaddress import ip_address
from random import Random

import pytest

from policy.core.lint import findings
from policy.core.objects import Pod
from policy.shell.filter import PolicyFilter
from tests.policy.interpreter import tell
from tests.policy.objects import labels, policy
from weavepy.base.errors import UsageError
from weavepy.client import schema
from weavepy.daemon import policies
from weavepy.daemon.policies import HERE, MATRIX_STEP, MAX_LISTED, MAX_MATRIX_PODS, PolicyService


@pytest.fixture
def thread() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture
def service(thread: Executor) -> PolicyService:
    """Nothing of it is in force, as nobody asks for that."""
    return PolicyService(PolicyFilter("weavepy-t", Random(1)), thread)


def add_pods(service: PolicyService, namespace: str, count: int, node: str = "") -> None:
    number = len(service.policies.pods)
    for one in range(number, number + count):
        address = ip_address(0x0A000001 + one)
        app = {"app": f"a{one % 3}"}
        service.policies.handle_pod(Pod(namespace, f"p{one}", app, (address,), node=node))


async def turns_of_others(work: Awaitable[object]) -> int:
    """How often the loop gets round while that is under way."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    await work
    task.cancel()
    return turns


async def test_others_have_their_turn_after_each_step_of_a_lint(service: PolicyService) -> None:
    add_pods(service, "x", 20_000)
    tell(service.policies, policy("x/p", labels(app="none")))
    steps = sum(1 for _ in findings(service.policies))
    assert steps > 50
    assert await turns_of_others(service.lint(schema.LintRequest())) >= steps - 1


async def test_others_have_their_turn_during_a_matrix(service: PolicyService) -> None:
    add_pods(service, "x", 40)
    turns = await turns_of_others(service.matrix(schema.MatrixRequest(port="80/tcp")))
    assert turns >= 40 * 40 / MATRIX_STEP - 1


async def test_a_matrix_of_too_many_pods_is_refused_and_one_of_a_namespace_is_not(
    service: PolicyService,
) -> None:
    add_pods(service, "large", MAX_MATRIX_PODS)
    add_pods(service, "small", 2)
    with pytest.raises(UsageError, match="202 pods is too large to read: --namespace"):
        await service.matrix(schema.MatrixRequest(port="80/tcp"))
    tell(service.policies, policy("small/deny", labels(app="a0")))
    tell(service.policies, policy("large/deny"))
    first, second = sorted(f"p{number}" for number in (200, 201))
    answer = await service.matrix(schema.MatrixRequest(port="80/tcp", namespace="small"))
    assert answer.pods == [f"small/{first}", f"small/{second}"]
    assert answer.allowed == [[True, False], [True, True]], "p201 is a0"
    nobody = await service.matrix(schema.MatrixRequest(port="80/tcp", namespace="empty"))
    assert nobody == schema.MatrixAnswer(pods=[], allowed=[])


async def test_a_lint_ends_after_many_findings_and_says_so(
    service: PolicyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "MAX_FINDINGS", 2)
    for name in ("x/a", "x/b", "y/a"):
        tell(service.policies, policy(name))
    every = await service.lint(schema.LintRequest())
    assert every.is_cut
    assert [one.partition(":")[0] for one in every.findings] == ["x/a", "x/b"]
    one = await service.lint(schema.LintRequest(namespace="y"))
    assert not one.is_cut
    assert [one.partition(":")[0] for one in one.findings] == ["y/a"]


async def test_a_lint_that_takes_too_long_is_refused(
    service: PolicyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "MAX_LINT_S", -1.0)
    add_pods(service, "x", 1000)
    with pytest.raises(UsageError, match="0 policies among 1000 pods .* --namespace"):
        await service.lint(schema.LintRequest())


@pytest.mark.root
async def test_of_many_policies_those_are_listed_that_matter_here(service: PolicyService) -> None:
    add_pods(service, "x", 1, node=HERE)
    add_pods(service, "y", MAX_LISTED)
    tell(service.policies, policy("x/here", labels(app="a0")))
    tell(service.policies, policy("y/faulty", {"matchExpressions": [{"key": "a"}]}))
    for number in range(MAX_LISTED - 2):
        tell(service.policies, policy(f"y/p{number}"))
    status = await service.status()
    assert (len(status.policies), status.policies_left_out) == (MAX_LISTED, 0)
    assert (len(status.pods), status.pods_left_out) == (1, MAX_LISTED)
    tell(service.policies, policy("y/one-more"))
    status = await service.status()
    assert [(one.namespace, one.name) for one in status.policies] == [
        ("x", "here"),
        ("y", "faulty"),
    ]
    assert status.policies_left_out == MAX_LISTED - 1
