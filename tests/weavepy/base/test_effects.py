import pytest

from weavepy.base.effects import EffectLoop


def test_effects_are_performed_first_in_first_out_also_those_that_follow() -> None:
    performed: list[str] = []
    follow = {"a": ["a1", "a2"], "b": ["b1"], "a1": ["a11"]}

    def perform(effect: str, now: float) -> list[str]:
        performed.append(effect)
        return follow.get(effect, [])

    EffectLoop(perform).run(["a", "b"], 0.0)
    assert performed == ["a", "b", "a1", "a2", "b1", "a11"]


def test_running_from_inside_an_effect_only_queues() -> None:
    performed: list[str] = []

    def perform(effect: str, now: float) -> list[str]:
        performed.append(effect)
        if effect == "outer":
            loop.run(["inner"], now)
            assert performed == ["outer"]
        return []

    loop = EffectLoop(perform)
    loop.run(["outer", "next"], 0.0)
    assert performed == ["outer", "next", "inner"]


def test_effects_without_end_are_a_bug_that_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weavepy.base.effects.MAX_EFFECTS_PER_RUN", 1000)
    loop: EffectLoop[str] = EffectLoop(lambda effect, now: [effect])
    with pytest.raises(AssertionError, match="without end"):
        loop.run(["again"], 0.0)


def test_an_error_in_one_effect_does_not_leave_the_loop_locked() -> None:
    def perform(effect: int, now: float) -> list[int]:
        performed.append(1 // effect)
        return []

    performed: list[int] = []
    loop: EffectLoop[int] = EffectLoop(perform)
    with pytest.raises(ZeroDivisionError):
        loop.run([0], 0.0)
    loop.run([1], 0.0)
    assert performed == [1]
