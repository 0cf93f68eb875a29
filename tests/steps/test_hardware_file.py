"""An accelerator of one's own from a YAML file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h3.common.errors import InputError
from h3.steps import batch, catalog, hardware_file, kernels, physics

CARD = """\
name: {name}
peak_bf16_tflops: 312
memory_bandwidth_gb_s: 2039
memory_gb: 80
link_gb_s: 300
streaming_multiprocessors: 108
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Each test starts without added cards."""
    monkeypatch.setattr(catalog, "_ADDED", {})


def card(folder: Path, text: str) -> Path:
    path = folder / "card.yaml"
    path.write_text(text)
    return path


def test_a_card_with_an_a100s_figures_takes_an_a100s_time(tmp_path):
    name = hardware_file.named(card(tmp_path, CARD.format(name="Mine")))
    arch = catalog.architecture("llama-2-70b")
    mine, a100 = (
        physics.terms_us(batch.step_table(batch.Deployment(arch, 4, each), [[(600, 1, 512)] * 40]))
        for each in (name, "A100")
    )
    assert name == "Mine" and mine.equals(a100)
    assert not kernels.has_tables(catalog.hardware("mine")) and "Mine: no kernel" in kernels.told(
        catalog.hardware("Mine")
    )


def test_figures_may_be_in_si_units_and_the_kernels_named(tmp_path):
    text = (
        "name: M\npeak_bf16_flops: 2.5e14\npeak_fp8_flops: 5.0e+14\nmemory_bandwidth_bytes_s: 1.8e12\n"
        "memory_bytes: 48000000000\nlink_bytes_s: 3.2e10\nstreaming_multiprocessors: 120\nkernels: L40S\n"
    )
    entry = catalog.hardware(hardware_file.named(card(tmp_path, text)))
    assert entry == catalog.Hardware("M", 2.5e14, 5e14, 1.8e12, 3.2e10, 48e9, 120, "L40S")
    assert kernels.of(entry).profile == "L40S" and "as its file says" in kernels.told(entry)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("name: Mine", ""), "name='None'; expected a name"),
        (("name: Mine", "name: h100"), "'h100': the name stands for H100 with other figures"),
        (("memory_gb: 80", "memory: 80"), "unknown key 'memory'; expected name, streaming_multiprocessors"),
        (("memory_gb: 80", "memory_gb: 80\nmemory_bytes: 8"), "memory_bytes or memory_gb: both are there"),
        (("link_gb_s: 300\n", ""), "link_bytes_s or link_gb_s: neither is there"),
        (("link_gb_s: 300", "link_gb_s: fast"), "link_gb_s='fast'; expected a number from 0.001 to 1e+09"),
        (("link_gb_s: 300", "link_gb_s: -1"), "link_gb_s='-1'; expected a number"),
        (("link_gb_s: 300", "link_gb_s: .nan"), "link_gb_s='nan'; expected a number"),
        (("processors: 108", "processors: 1.5"), "streaming_multiprocessors='1.5'; expected a whole number"),
        (
            ("memory_gb", "kernels: V100\nmemory_gb"),
            "kernels='V100'; expected one of H100, H100-vLLM-0.24",
        ),
        ((CARD.format(name="Mine"), "just words"), "holds str; expected key: value lines"),
        (("name: Mine", "name: ["), "not YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(tmp_path, change, expected):
    path = card(tmp_path, CARD.format(name="Mine").replace(*change))
    with pytest.raises(InputError) as found:
        hardware_file.named(path)
    message = str(found.value)
    assert expected in message and str(path) in message and "\n" not in message


def test_a_missing_file_and_an_unknown_name_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"none.yaml: No such file .*; expected a YAML file"):
        hardware_file.named(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"unknown hardware 'Mine'; expected one of .* hardware=FILE.yaml"):
        catalog.hardware("Mine")


def test_a_name_keeps_its_figures_while_the_process_lives(tmp_path):
    hardware_file.named(card(tmp_path, CARD.format(name="Mine")))
    hardware_file.named(card(tmp_path, CARD.format(name="Mine")))  # the same again
    with pytest.raises(InputError, match="'Mine': the name stands for Mine with other figures"):
        hardware_file.named(card(tmp_path, CARD.format(name="Mine").replace("2039", "2000")))
    assert catalog.hardware("Mine").memory_bandwidth_bytes_s == 2.039e12


def test_a_relative_path_is_looked_for_beside_the_experiment_first(tmp_path):
    card(tmp_path, CARD.format(name="Beside"))
    assert hardware_file.named("card.yaml", tmp_path) == "Beside"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_card_or_one_clear_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("cards") / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as found:
        hardware_file.read(path)
    assert "\n" not in str(found.value)
