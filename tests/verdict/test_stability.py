"""Rankings of features that agree, disagree, tie, or are not there."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from h3.verdict import stability


def ranking(**importance):
    return pd.DataFrame({"feature": list(importance), "mean_abs_shap": list(importance.values())})


def of_order(order):
    """A ranking with the features of a word in the order of the word, the first the most important."""
    return ranking(**{name: float(len(order) - place) for place, name in enumerate(order)})


def test_folds_that_rank_alike_agree_fully():
    found = stability.measure(
        {"one": of_order("abcdef"), "two": of_order("abcdef"), "three": of_order("abcdef")}
    )
    assert found.kendall_w == pytest.approx(1)
    assert found.rank_std == 0
    assert [pair.rho for pair in found.spearman] == pytest.approx([1, 1, 1])
    assert found.baseline.p_value < 0.01
    assert found.top == tuple("abcdef")


def test_two_opposite_rankings_do_not_agree_at_all():
    found = stability.measure({"one": of_order("abcde"), "two": of_order("edcba")})
    assert found.kendall_w == pytest.approx(0)
    assert found.spearman[0].rho == pytest.approx(-1)


def test_kendalls_w_and_rank_std_worked_by_hand():
    # Ranks abc, abc, bac: sums 4, 5, 9, mean 6, S = 4 + 1 + 9 = 14; W = 12 * 14 / (9 * 24) = 7/9.
    # Standard deviations: a (1, 1, 2) and b (2, 2, 1): sqrt(1/3); c: 0.
    found = stability.measure({"one": of_order("abc"), "two": of_order("abc"), "three": of_order("bac")})
    assert found.kendall_w == pytest.approx(7 / 9)
    assert found.rank_std == pytest.approx(2 * np.sqrt(1 / 3) / 3)


def test_ties_count_as_the_formula_with_its_correction_says():
    # Ranks (1.5, 1.5, 3) twice: sums 3, 3, 6, S = 6; T = 2 * 6 = 12; W = 12 * 6 / (4 * 24 - 2 * 12) = 1.
    tied = ranking(a=2.0, b=2.0, c=1.0)
    assert stability.measure({"one": tied, "two": tied}).kendall_w == pytest.approx(1)


def test_spearman_is_scipys_and_lies_in_its_interval():
    first, second = np.random.default_rng(3).permuted(np.tile(np.arange(12.0), (2, 1)), axis=1)
    rho, low, high = stability.spearman(first, second, np.random.default_rng(0))
    assert rho == pytest.approx(spearmanr(first, second).statistic)
    assert low <= rho <= high


def test_the_permutation_baseline_gives_what_chance_gives():
    # Friedman: the mean of W under independence is 1 / folds.
    table = np.array([np.random.default_rng(seed).permutation(10) + 1.0 for seed in range(4)]).T
    chance = stability.baseline(table, np.random.default_rng(0))
    assert chance.kendall_w_mean == pytest.approx(1 / 4, abs=0.02)
    assert chance.kendall_w_95 > chance.kendall_w_mean
    assert chance.p_value > 0.05


def test_folds_without_contributing_trees_are_counted_not_averaged():
    found = stability.measure(
        {"one": of_order("abc"), "two": ranking(a=0.0, b=0.0, c=0.0), "three": None, "four": of_order("abc")}
    )
    assert found.folds == ["one", "four"]
    assert found.folds_without_trees == ["three", "two"]
    assert found.n_folds == 4
    assert found.kendall_w == pytest.approx(1)


def test_one_fold_with_trees_has_no_agreement_to_measure():
    found = stability.measure({"one": of_order("abc"), "two": None})
    assert (found.kendall_w, found.rank_std, found.spearman, found.baseline) == (
        None,
        None,
        (),
        None,
    )


def test_one_feature_alone_has_no_agreement_to_measure():
    found = stability.measure({"one": of_order("a"), "two": of_order("a")})
    assert (found.kendall_w, found.spearman[0].rho, found.spearman[0].interval) == (None, None, (None, None))


@pytest.mark.filterwarnings("error")
def test_folds_without_a_shared_feature_have_no_agreement_to_measure():
    found = stability.measure({"levels": of_order("abc"), "steps": of_order("xyz")})
    assert found.kendall_w is None and found.rank_std is None
    assert found.folds == ["levels", "steps"] and found.top == ()


def test_the_same_seed_gives_the_same_numbers():
    rankings = {"one": of_order("abcdef"), "two": of_order("bacdfe")}
    assert stability.measure(rankings, seed=5) == stability.measure(rankings, seed=5)
