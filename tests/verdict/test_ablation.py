"""What each idea is worth: effects, the waterfall, and the variants that conf/ablation defines."""

from hydra import compose, initialize_config_dir

from h3.common.config import CONF, TrainConfig, from_hydra
from h3.evaluation.result import FoldResult
from h3.models import zoo
from h3.verdict import ablation


def test_the_waterfall_goes_from_the_studys_number_to_ours_on_the_folds_that_all_steps_have():
    def result(variant, name, mape):
        known = {"kind": "lomo", "holdout": name, "model": "ours", "data_digest": "d1", "n_test": 1}
        interval = (mape, mape)
        return FoldResult(
            ablation=variant, fold=name, mape=mape, mape_interval=interval, mape_train=1.0, **known
        )

    results = [
        result(name, "a", value) for (name, _), value in zip(ablation.STEPS, (100, 40, 10, 8, 6), strict=True)
    ]
    steps = ablation.waterfall([*results, result("none", "b", 1000)])
    assert [step.mape for step in steps] == [2559.7, 100, 40, 10, 8, 6]
    # Request logs do not have the study's clock; no other step may be absent.
    assert [step.mape for step in ablation.waterfall(results[1:])] == [2559.7, 40, 10, 8, 6]
    assert ablation.waterfall(results[2:]) == []


def test_every_variant_of_the_ablation_composes_and_changes_what_it_is_named_after():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = sorted(path.stem for path in (CONF / "ablation").glob("*.yaml"))
        configs = {name: from_hydra(compose("config", [f"ablation={name}"]), TrainConfig) for name in names}
    assert all(config.ablation.name == name for name, config in configs.items())
    assert not configs["no_base"].ablation.base
    assert configs["no_right_clock"].target == configs["step_0_study"].target == "duration"
    assert configs["no_scale_free"].features.name == configs["step_1_clock"].features.name == "raw30"
    assert configs["no_group_tuning"].ablation.inner == "random"
    assert not configs["no_equal_weights"].ablation.equal_weights
    assert configs["step_1_clock"].model.name == "xgboost_raw"
    assert configs["drop_memory"].features.drop_groups == ("memory",)
    assert {name for name, _ in ablation.STEPS} <= set(names)
    assert all(config.model.name in zoo.PREDICTORS for config in configs.values())
