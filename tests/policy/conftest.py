import pytest

from tests.policy.judges import JUDGES, Judge


@pytest.fixture(params=sorted(JUDGES))
def judge(request: pytest.FixtureRequest) -> Judge:
    """Each sentence about policies is checked of the model and of what was compiled."""
    name: str = request.param
    return JUDGES[name]
