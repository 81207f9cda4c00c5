"""The paired randomisation test against scipy's, and what it must say in clear cases."""

from __future__ import annotations

import numpy as np
import pytest

from lateint.evaluation.significance import compare, holm


def numbered(values: np.ndarray) -> dict[str, float]:
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def scipy_p(a: np.ndarray, b: np.ndarray, resamples: int) -> float:
    stats = pytest.importorskip("scipy.stats", reason="scipy is no dependency of ours")
    found = stats.permutation_test(
        (a - b,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        rng=1,
    )
    return float(found.pvalue)


def test_exact_like_scipy() -> None:
    generator = np.random.default_rng(0)
    for size in (2, 5, 9):
        a, b = generator.random(size), generator.random(size)
        ours = compare(numbered(a), numbered(b)).p_value
        assert ours == pytest.approx(scipy_p(a, b, 100_000), abs=1e-12)


def test_drawn_like_scipy() -> None:
    generator = np.random.default_rng(1)
    a = generator.random(60)
    b = a - generator.normal(0.03, 0.15, 60)
    ours = compare(numbered(a), numbered(b), permutations=20_000).p_value
    assert 0.02 < ours < 0.9
    assert ours == pytest.approx(scipy_p(a, b, 3_000), abs=0.04)


def test_false_alarms_are_as_rare_as_the_p_value_says() -> None:
    generator = np.random.default_rng(2)
    values = []
    for _ in range(200):
        a, b = generator.random((2, 30))
        values.append(compare(numbered(a), numbered(b), permutations=400).p_value)
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.10


def test_clear_cases() -> None:
    ones, zeros = numbered(np.ones(40)), numbered(np.zeros(40))
    better = compare(ones, zeros, permutations=999)
    assert (better.difference, better.better, better.worse) == (1.0, 40, 0)
    assert (better.low, better.high) == (1.0, 1.0)
    assert better.p_value == pytest.approx(1 / 1000)
    same = compare(ones, ones)
    assert (same.p_value, same.difference, same.better, same.worse) == (1.0, 0.0, 0, 0)


def test_the_interval_holds_the_difference_and_the_seed_decides() -> None:
    generator = np.random.default_rng(3)
    a, b = numbered(generator.random(50)), numbered(generator.random(50))
    one = compare(a, b, permutations=500, seed=1)
    assert one == compare(a, b, permutations=500, seed=1)
    assert one != compare(a, b, permutations=500, seed=2)
    assert one.low < one.difference < one.high
    back = compare(b, a, permutations=500, seed=1)
    assert back.difference == pytest.approx(-one.difference)
    assert (back.better, back.worse) == (one.worse, one.better)


def test_holm_corrects_upwards_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_other_queries_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"same queries .* only on one side: \['q2'\]"):
        compare({"q1": 1.0, "q2": 0.0}, {"q1": 1.0})
    with pytest.raises(ValueError, match="got 0 and 0"):
        compare({}, {})
    with pytest.raises(ValueError, match="permutations"):
        compare({"q": 1.0}, {"q": 0.0}, permutations=0)
