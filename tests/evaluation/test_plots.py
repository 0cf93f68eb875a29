"""Figures of a fold: what they show where a log does not hold everything."""

import warnings

import numpy as np
import pandas as pd

from h3.evaluation.plots import shap_summary


def test_a_feature_that_no_held_out_row_has_is_drawn_without_a_word_of_numpy():
    rng, names = np.random.default_rng(0), ["batch", "kv_tokens", "waiting"]
    values, matrix = (pd.DataFrame(rng.normal(size=(50, 3)), columns=names) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        figure = shap_summary(values, matrix.assign(waiting=np.nan), "lomo_mixtral")
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(shown) == names and figure.axes[0].get_title() == "lomo_mixtral"
