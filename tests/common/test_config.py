"""Settings are checked when they are composed."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from h3.common.config import TrainConfig, from_hydra
from h3.common.errors import InputError

LEAST = {
    "source": {"name": "simulated"},
    "fold": {"name": "lowo", "kind": "lowo", "holdout": "codegen"},
    "model": {"name": "xgboost_residual"},
    "features": {"name": "scale_free"},
}


@pytest.mark.parametrize("off", [{"base": False}, {"inner": "random"}, {"equal_weights": False}])
def test_an_idea_is_switched_off_under_a_name_only(off):
    with pytest.raises(
        InputError, match=r"config: ablation: an ablation needs a name other than none"
    ) as error:
        from_hydra(OmegaConf.create(LEAST | {"ablation": off}), TrainConfig)
    assert "\n" not in str(error.value)
    named = from_hydra(OmegaConf.create(LEAST | {"ablation": {"name": "mine", **off}}), TrainConfig)
    assert named.ablation.name == "mine"


def test_an_unknown_key_is_an_error_that_lists_the_valid_ones():
    with pytest.raises(InputError, match=r"unknown key 'tune.trails'; expected one of .*trials"):
        from_hydra(OmegaConf.create(LEAST | {"tune": {"trails": 3}}), TrainConfig)


def test_the_usual_settings_are_h3_whole():
    config = from_hydra(OmegaConf.create(LEAST), TrainConfig)
    assert isinstance(config, TrainConfig)
    assert (config.ablation.name, config.target_column, config.seed) == ("none", "period_us", 0)
