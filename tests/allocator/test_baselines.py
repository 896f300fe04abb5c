"""The methods that do not learn."""

import numpy as np
import pytest

from allocator import make_policy

COSTS = np.array([[64, 128, 256, 400]] * 3 + [[64, 128, 182, 182], [42, 42, 42, 42]])


class TestBaselines:
    def test_random_is_uniform_over_distinct_feasible_allocations(self):
        decision = make_policy("random").select(costs=COSTS)
        assert decision.propensity == pytest.approx(1 / (4 * 4 * 4 * 3 * 1))

    @pytest.mark.parametrize(("mean", "want"), [(0.4, 0.4 * 1424), (900, 900), (1e9, 1424), (1, 1424), (2, 298)])
    def test_random_spends_the_mean_it_is_given(self, mean, want):
        policy = make_policy("random", mean_tokens=mean)
        spent = [policy.select(costs=COSTS).cost for _ in range(600)]
        assert np.mean(spent) == pytest.approx(want, abs=4 * np.std(spent) / np.sqrt(600) + 1e-9)

    def test_uniform_takes_the_dearest_that_fits(self):
        costs = [64, 128, 256, 400]
        policy = make_policy("uniform")
        assert policy.select(np.ones((4, 1)), costs=costs).index.tolist() == [3] * 4
        assert policy.select(np.ones((4, 1)), costs=costs, limit=1100).index.tolist() == [2] * 4
        with pytest.raises(ValueError, match="uniform arm 3 costs 1600, above the limit 1100"):
            make_policy("uniform", arm=3).select(np.ones((4, 1)), costs=costs, limit=1100)
        with pytest.raises(ValueError, match="uniform arm 7 is unknown"):
            make_policy("uniform", arm=7).select(np.ones((4, 1)), costs=costs)

    def test_fixed_refuses_what_does_not_fit(self):
        policy = make_policy("fixed", allocation=[3, 0])
        assert policy.select(np.ones((2, 1)), costs=[64, 400, 400, 400]).cost == 464
        with pytest.raises(ValueError, match="has 2 patches, the problem 3"):
            policy.select(np.ones((3, 1)), costs=[1, 2, 3, 4])
        with pytest.raises(ValueError, match="the arms are 0 to 1"):
            policy.select(np.ones((2, 1)), costs=[1, 2])
        with pytest.raises(ValueError, match="costs 5, above the limit 4"):
            policy.select(np.ones((2, 1)), costs=[1, 2, 3, 4], limit=4)
        with pytest.raises(ValueError, match="needs allocation="):
            make_policy("fixed")

    def test_oracle_needs_values_and_is_optimal(self):
        policy = make_policy("oracle")
        with pytest.raises(ValueError, match="needs values="):
            policy.select(np.ones((2, 1)), costs=[1, 2])
        assert policy.select(values=[[0.0, 1.0], [0.0, 3.0]], costs=[1, 5], limit=6).index.tolist() == [0, 1]
