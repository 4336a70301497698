"""Some hundreds of the random sets that `python -m tests.policy.differential` goes through."""

from tests.policy.differential import differences


def test_what_is_compiled_agrees_with_the_model_in_every_cell() -> None:
    assert [line for seed in range(400) for line in differences(seed)] == []
