"""Golden cases: batches and architectures that any evaluator must agree on, and how nearly.

    chosen = cases()                                    # edges, then random ones, the same every time
    table_of(chosen, CONFIGS)                           # a step table with a row each

golden_file.py puts them into a bundle with the answers. Random batches serve the gate and the benchmark too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.batch import Deployment, Request, compose, flatten

TOLERANCE = {"features": 1e-6, "us": 1e-5}  # relative
RANDOM_CASES = 460
# Configs that are served with top-p or top-k.
TRUNCATED = ("llama-2-7b", "llama-2-70b", "small-1b", "fine-experts-30b")
# Name in CONFIGS, tensor parallelism, hardware, requests of the batch.
Case = tuple[str, int, str, Sequence[Request]]


def _dense(layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, **more: object) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": 32000,
        "torch_dtype": "float16",
        **more,
    }


# HuggingFace configs by name.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-2-7b": _dense(32, 4096, 32, 32, 11008),
    "llama-2-70b": _dense(80, 8192, 64, 8, 28672),
    "codellama-34b": _dense(48, 8192, 64, 8, 22016, torch_dtype="bfloat16"),
    "mixtral-8x7b": _dense(
        32, 4096, 32, 8, 14336, num_local_experts=8, num_experts_per_tok=2, torch_dtype="bfloat16"
    ),
    "small-1b": _dense(16, 2048, 32, 8, 8192, vocab_size=128256, head_dim=64),
    "large-405b-fp8": _dense(
        126, 16384, 128, 8, 53248, vocab_size=128256, quantization_config={"quant_method": "fbgemm_fp8"}
    ),
    "four-bit-13b": _dense(40, 5120, 40, 40, 13824, quantization_config={"quant_method": "awq", "bits": 4}),
    "fine-experts-30b": _dense(
        48,
        2048,
        32,
        4,
        6144,
        head_dim=128,
        vocab_size=151936,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
    "shared-experts-16b": _dense(
        28,
        2048,
        16,
        16,
        10944,
        vocab_size=102400,
        n_routed_experts=64,
        num_experts_per_tok=6,
        moe_intermediate_size=1408,
        n_shared_experts=2,
        first_k_dense_replace=1,
    ),
    "nested-interleaved": {
        "text_config": _dense(
            48,
            5120,
            40,
            8,
            8192,
            head_dim=128,
            vocab_size=202048,
            num_local_experts=16,
            num_experts_per_tok=1,
            interleave_moe_layer_step=2,
            intermediate_size_mlp=16384,
            attention_chunk_size=8192,
        )
    },
    "windows-9b": _dense(
        42, 3584, 16, 8, 14336, head_dim=256, vocab_size=256000, model_type="gemma2", sliding_window=4096
    ),
    "latent-16b": _dense(
        27,
        2048,
        16,
        16,
        10944,
        vocab_size=102400,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=64,
        num_experts_per_tok=6,
        moe_intermediate_size=1408,
        n_shared_experts=2,
        first_k_dense_replace=1,
    ),
    "four-bit-experts-20b": _dense(
        24,
        2880,
        64,
        8,
        2880,
        head_dim=64,
        vocab_size=201088,
        num_local_experts=32,
        num_experts_per_tok=4,
        sliding_window=128,
        layer_types=["sliding_attention", "full_attention"] * 12,
        quantization_config={
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
        },
    ),
    "ungated-7b": {
        "model_type": "falcon",
        "num_hidden_layers": 32,
        "hidden_size": 4544,
        "num_attention_heads": 71,
        "multi_query": True,
        "vocab_size": 65024,
    },
}


EDGE_DEPLOYMENTS = (
    ("llama-2-7b", 1),
    ("mixtral-8x7b", 8),
    ("llama-2-70b", 8),
    ("fine-experts-30b", 4),
    ("nested-interleaved", 8),
)


# The study's own, on H100: trees may serve no others.
KNOWN_DEPLOYMENTS = (("llama-2-7b", 1), ("llama-2-70b", 4), ("codellama-34b", 2), ("mixtral-8x7b", 2))


def deployments(generator: np.random.Generator) -> Iterator[tuple[str, int, str]]:
    """Endless random deployments: config name, tensor parallelism, hardware; a third of them the study's
    own.
    """
    while True:
        if generator.integers(3) == 0:
            yield *KNOWN_DEPLOYMENTS[generator.integers(len(KNOWN_DEPLOYMENTS))], "H100"
            continue
        name = list(CONFIGS)[generator.integers(len(CONFIGS))]
        heads = CONFIGS[name].get("text_config", CONFIGS[name])["num_attention_heads"]
        degrees = [degree for degree in (1, 2, 4, 8) if heads % degree == 0]
        yield name, int(generator.choice(degrees)), str(generator.choice(list(catalog.HARDWARE)))


def random_batch(generator: np.random.Generator, most: int = 128) -> list[Request]:
    """Mostly decoding requests, with prefill chunks in half of the batches; sizes and contexts spread over
    magnitudes.
    """
    size = int(np.exp(generator.uniform(0, np.log(most))))
    prompts = np.exp(generator.uniform(np.log(8), np.log(8192), size)).astype(int)
    generated = generator.integers(0, 2000, size)
    batch = [(int(prompt + done), 1, int(prompt)) for prompt, done in zip(prompts, generated, strict=True)]
    for _ in range(int(generator.choice([0, 0, 0, 1, 1, 2]))):
        prompt = int(np.exp(generator.uniform(np.log(16), np.log(16384))))
        before = int(generator.integers(0, prompt)) if generator.random() < 0.5 else 0
        batch.append((before, int(generator.integers(1, min(prompt - before, 2048) + 1)), prompt))
    return batch


def _edges() -> Iterator[Case]:
    batches: list[list[Request]] = [
        [],
        [(0, 1, 1)],
        [(1, 1, 1)],
        [(0, 0, 512)],
        [(32767, 1, 1024)] * 128,
        [(512, 1, 512)] * 512,
        [(512, 1, 512)] * 513,
        [(0, 2048, 2048)],
        [(2048, 2048, 8192), (6144, 2048, 8192)],
        [(1023, 1, 1024)],
        [(600, 1, 512), (0, 512, 512)],
        [(700, 1, 512)] * 127 + [(0, 1, 9)],
    ]
    for batch in batches[:5] + batches[7:]:
        for name, degree in EDGE_DEPLOYMENTS:
            yield name, degree, "H100", batch
    for batch in batches[5:7]:
        yield "small-1b", 1, "H100", batch
    for hardware in catalog.HARDWARE:
        for name, degree in (("large-405b-fp8", 8), ("four-bit-13b", 2)):
            yield name, degree, hardware, batches[10]


def cases(seed: int = 0) -> list[Case]:
    """Edges, then random ones."""
    generator = np.random.default_rng(seed)
    places = deployments(generator)
    return [*_edges(), *((*next(places), random_batch(generator, 32)) for _ in range(RANDOM_CASES))]


def table_of(
    chosen: Sequence[Case], configs: Mapping[str, dict[str, Any]], truncated: Collection[str] = TRUNCATED
) -> pd.DataFrame:
    """The step table of the cases, a row each, in order; raises InputError for a config that is not there.

    truncated: configs that are served with top-p or top-k.
    """
    deployments: dict[tuple[str, int, str], Deployment] = {}
    by_window: dict[int, list[int]] = {}
    for number, (name, degree, hardware, _) in enumerate(chosen):
        if name not in configs:
            raise InputError(f"golden: config {name!r} is not among {', '.join(configs)}")
        place = (name, degree, hardware)
        if place not in deployments:
            try:
                architecture = catalog.from_hf_config(configs[name], name)
                deployments[place] = Deployment(architecture, degree, hardware, name in truncated)
            except InputError as error:
                raise InputError(f"vector {number}: {error}") from None
        by_window.setdefault(deployments[place].architecture.window_tokens, []).append(number)
    # Few tables of many rows: a table of each deployment takes most of the time that reading a bundle takes.
    compositions = [
        compose(*flatten(chosen[number][3] for number in numbers), window).set_index(pd.Index(numbers))
        for window, numbers in by_window.items()
    ]
    columns = {place: deployment.columns() for place, deployment in deployments.items()}
    deployed = pd.DataFrame([columns[case[:3]] for case in chosen])
    return pd.concat([pd.concat(compositions).sort_index(), deployed], axis=1)


def relative(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|found - expected| / |expected|; absolute where 0 is expected."""
    scale = np.where(expected == 0, 1.0, np.abs(expected))
    distance: np.ndarray = np.abs(found.astype(float) - expected) / scale
    return distance
