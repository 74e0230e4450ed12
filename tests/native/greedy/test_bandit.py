"""The bandit's kernels against dictionaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.native.naive import bandit as naive_bandit

from tamis.native.greedy import bandit


def matrix(draw: np.random.Generator, arms: int) -> NDArray[np.float32]:
    places = draw.integers(0, 4, (arms, 2)) / 4  # many at the same distance, and at distance 0
    distances: NDArray[np.float32] = np.linalg.norm(places[:, None] - places[None], axis=2).astype(np.float32)
    return distances


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 15), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_rounds_are_those_of_dictionaries(arms: int, most: int, released: bool, social: bool, seed: int) -> None:
    draw = np.random.default_rng(seed)
    distances, threshold = matrix(draw, arms), 0.3
    relations, near = bandit.alone(arms), {arm: {arm: 1.0} for arm in range(arms)}
    if social:
        relations = bandit.neighbours_within(distances, threshold)
        near = {
            arm: {
                other: 1 - float(distances[arm, other]) / threshold
                for other in range(arms)
                if float(distances[arm, other]) < threshold
            }
            for arm in range(arms)
        }
    state, naive = bandit.begin(arms), naive_bandit.Bandit(arms, near, released)
    capacity = draw.integers(0, 4, arms)
    chosen = np.empty(min(most, arms), np.int32)
    for number in range(8):
        picked = chosen[: bandit.choose(state, capacity, released, chosen)]
        assert picked.tolist() == naive.choose(capacity.tolist(), most)
        # Few different rewards, so that scores tie; some pulls tell nothing.
        rewards = draw.choice([0.5, -0.25, 0.0, np.nan], len(picked), p=[0.4, 0.3, 0.2, 0.1])
        accepted = rewards > 0
        bandit.learn(state, picked, rewards, accepted, relations, released)
        bandit.rescore(state, 0.125 * number, 0.7, released)
        for arm, reward, took in zip(picked.tolist(), rewards.tolist(), accepted.tolist(), strict=True):
            naive.learn(arm, reward, took)
        naive.rescore(0.125 * number, 0.7)
        assert state.pulls.tolist() == list(naive.pulls.values())
        assert state.accepted.tolist() == list(naive.accepted.values())
        assert state.sums.tolist() == list(naive.sums.values())
        assert state.updates.tolist() == list(naive.updates.values())
        np.testing.assert_allclose(state.scores, list(naive.scores.values()), rtol=1e-14)


def test_exhausted_arms_stay_exhausted_but_for_the_release() -> None:
    for released in (False, True):
        state, chosen = bandit.begin(3), np.empty(1, np.int32)
        capacity = np.array([0, 1, 1])
        assert chosen[: bandit.choose(state, capacity, released, chosen)].tolist() == [1]
        bandit.learn(state, chosen, np.array([-5.0]), np.array([False]), bandit.alone(3), released)
        bandit.learn(state, np.array([2], np.int32), np.array([1.0]), np.array([True]), bandit.alone(3), released)
        bandit.rescore(state, 0.0, 1.0, released)
        assert (state.scores[0] > 0) == released
        assert bandit.choose(state, capacity, released, chosen) == 0
    assert bandit.choose(bandit.begin(0), np.empty(0, np.int64), False, chosen) == 0


def test_neighbours_share_by_distance() -> None:
    distances = np.array([[0, 0.1, 0.2], [0.1, 0, 0.15], [0.2, 0.15, 0]])
    found = bandit.neighbours_within(distances, 0.2)
    assert found.starts.tolist() == [0, 2, 5, 7]
    assert found.arms.tolist() == [0, 1, 0, 1, 2, 1, 2]
    assert found.shares == pytest.approx([1, 0.5, 0.5, 1, 0.25, 0.25, 1])


@pytest.mark.parametrize("values", [[], [1.0], [np.nan], [np.nan, 2.0, 4.0]])
def test_means_leave_missing_values_out(values: list[float]) -> None:
    means = np.empty(2)
    bandit.means_of(np.array([*values, 7.0]), np.array([0, len(values), len(values) + 1]), means)
    known = [value for value in values if not np.isnan(value)]
    assert means[1] == 7.0
    np.testing.assert_equal(means[0], sum(known) / len(known) if known else np.nan)


def test_near_centres_are_those_of_a_matrix() -> None:
    centres = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
    distances = np.linalg.norm(centres[:, None].astype(np.float64) - centres[None], axis=2)
    found, expected = bandit.near_centres(centres, 1.2, 40 * 40), bandit.neighbours_within(distances, 1.2)
    assert found.starts.tolist() == expected.starts.tolist() and found.arms.tolist() == expected.arms.tolist()
    np.testing.assert_allclose(found.shares, expected.shares, atol=1e-12)
    with pytest.raises(ValueError, match="more than 100 pairs"):
        bandit.near_centres(centres, 1.2, 100)
