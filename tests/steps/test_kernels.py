"""How other GPUs' kernels scale the terms of the base, and which kernels a GPU without tables takes."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from h3.common import packaged
from h3.steps import batch, catalog, kernels, physics

ROOT = Path(__file__).parents[2]
TABLES = ROOT.parent / "shared" / "data" / "kernels"
sys.path.insert(0, str(ROOT / "scripts"))
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="the kernel tables are not here")

H100 = catalog.hardware("H100")


def terms(
    hardware: str, tokens: tuple[int, ...] = (64,), ranks: int = 1, model: str = "llama-3.1-8b-instruct"
):
    arch = catalog.architecture(model)
    steps = batch.uniform(np.array(tokens, float), 700.0, 0.0)
    return physics.terms_us(batch.with_deployment(steps, batch.Deployment(arch, ranks, hardware)))


@needs_tables
def test_the_packaged_profiles_are_what_the_kernel_tables_show():
    import fit_kernel_priors

    found, expected = fit_kernel_priors.profiles(TABLES), pd.read_csv(packaged.FOLDER / kernels.TABLE)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


@needs_tables
@pytest.mark.parametrize("hardware", ["H200", "A100", "L40S"])
def test_whole_steps_of_kernels_are_met_as_well_as_on_an_h100(hardware):
    import kernel_steps

    def mean(name: str) -> float:
        rows = kernel_steps.compared(TABLES, hardware if name != "H100" else "H100", name)
        return float(np.exp(np.log(rows["ratio"]).mean()))

    unscaled = catalog.hardware(kernel_steps.unscaled(hardware)).name
    own, before, h100 = mean(hardware), mean(unscaled), mean("H100")
    assert own == pytest.approx(h100, rel=0.03)
    assert before < own - 0.04  # an H100's efficiencies are too good for each of them


@needs_tables
def test_the_error_that_is_told_covers_gpus_that_take_the_nearest_profile():
    import kernel_steps

    def log_mean(name: str, like: str) -> float:
        return float(np.log(kernel_steps.compared(TABLES, name, like)["ratio"]).mean())

    h100 = log_mean("H100", "H100")
    others = ("H200", "A100", "L40S")
    far = [log_mean(name, kernel_steps.without(name)) - h100 for name in others]
    near = [log_mean(name, name) - h100 for name in others]
    assert np.sqrt(np.mean(np.square(far))) == pytest.approx(kernels.NEAREST_LOG_ERROR, abs=0.01)
    assert np.sqrt(np.mean(np.square(near))) == pytest.approx(kernels.TABLES_LOG_ERROR, abs=0.005)


def test_an_h100_is_the_measure_of_all_others():
    own = asdict(kernels.of(H100))
    assert {own.pop("profile"), own.pop("link")} == {"H100"}
    assert {name: value for name, value in own.items() if value != (0.0 if "bend" in name else 1.0)} == {}


def test_what_the_host_does_is_the_same_on_every_gpu():
    for name in catalog.HARDWARE:
        assert terms(name)[["requests", "step"]].equals(terms("H100")[["requests", "step"]])


def test_memory_bound_times_take_more_than_the_ratio_of_bandwidths_on_an_a100():
    """Its GEMMs reach less of its bandwidth than an H100's of theirs (tables: 74 and 90 %)."""
    slower = H100.memory_bandwidth_bytes_s / catalog.hardware("A100").memory_bandwidth_bytes_s
    ratio = (terms("A100") / terms("H100")).iloc[0]
    assert 1.1 < ratio["weights_us"] / slower < 1.35
    assert 1.05 < ratio["kv_us"] / slower < 1.35
    assert ratio["layers"] > 1.3


def test_without_a_bend_the_excess_is_the_sharp_corner_to_the_bit():
    generator = np.random.default_rng(0)
    memory, compute = (np.exp(generator.uniform(-10, 16, 10_000)) for _ in range(2))
    assert (physics.excess_us(memory, compute, 0.0) == np.maximum(0.0, compute - memory)).all()


def test_a_bend_adds_most_at_the_corner_and_little_far_from_it():
    excess = physics.excess_us(np.full(3, 100.0), np.array([1.0, 100.0, 10_000.0]), 0.6)
    assert excess[1] == pytest.approx(100 * np.sqrt(0.6) / 2)
    assert 0 < excess[0] < 1 and excess[2] == pytest.approx(9_900, rel=0.01)


@pytest.mark.parametrize("name", [name for name in catalog.HARDWARE if name != "H100"])
def test_a_step_with_more_tokens_never_takes_less_time(name):
    for ranks in (1, 2, 4, 8):
        found = terms(name, tuple(range(1, 600)), ranks)[["weights_us", "compute_excess_us", "all_reduce_us"]]
        assert (found["weights_us"] + found["compute_excess_us"]).diff().dropna().min() >= -1e-9


def test_over_pcie_four_ranks_share_the_host_bridge():
    """L40S tables: 1 MB takes 60 us between two ranks, 361 between four; 4 MB 4014 us between eight."""
    message = np.array([1_048_576 / 8192 / 2])
    arch = replace(catalog.architecture("llama-2-70b"), num_layers=1)
    steps = batch.uniform(message, 1.0, 0.0)

    def us(ranks: int, messages: int) -> float:
        table = batch.with_deployment(steps, batch.Deployment(arch, ranks, "L40S"))
        return float(physics.all_reduce_us(table, messages * message)[0]) / 2

    assert us(2, 1) == pytest.approx(60, rel=0.1) and us(4, 1) == pytest.approx(361, rel=0.1)
    assert us(8, 4) == pytest.approx(4014, rel=0.25)


def test_a_gpu_without_tables_takes_the_nearest_and_its_answer_says_so():
    small = kernels.of(catalog.hardware("L4"))
    assert (small.profile, small.link) == ("L40S", "L40S")
    assert kernels.of(catalog.hardware("A100-40GB")).profile == "A100"
    pcie = replace(H100, name="mine", kernels=None, nvlink_bandwidth_bytes_s=64e9)
    assert (kernels.of(pcie).profile, kernels.of(pcie).link) == ("H100", "L40S")
    assert re.search(r"L4: no kernel .* L40S's \(the nearest", kernels.told(catalog.hardware("L4")))
    assert kernels.told(H100) == "" and kernels.told(catalog.hardware("A100")) == ""
