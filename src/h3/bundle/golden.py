"""Golden vectors: raw batches and architectures with the features, base, margin and us that any evaluator
must give.

    content = make(predict, feature_names)  # at least 500 vectors, edges included, the same every time
    compare(content, fitted_by_route, predict, "golden.json")

A vector: {"config", "tensor_parallelism", "hardware", "requests": [[progress_index, new_tokens,
prompt_tokens], ...], "features", "base_us", "trust", "margin", "us"}; `config` names one of the HuggingFace
configs beside the vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from h3.bundle import untrusted_json as bundle_json
from h3.common.errors import InputError
from h3.models import trees as bundle_trees
from h3.models.xgboost_residual import FittedResidual
from h3.steps import catalog
from h3.steps.batch import Deployment, Request, step_table

FORMAT = "h3-golden"
TOLERANCE = {"features": 1e-6, "us": 1e-5}
MIN_VECTORS, RANDOM_VECTORS = 500, 460
Case = tuple[str, int, str, list[Request]]
Predict = Callable[[pd.DataFrame], pd.DataFrame]


def _dense(layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, **more: object) -> dict:
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


CONFIGS = {
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
        )
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
    return [*_edges(), *((*next(places), random_batch(generator, 32)) for _ in range(RANDOM_VECTORS))]


def table_of(chosen: list[Case], configs: dict[str, dict]) -> pd.DataFrame:
    """The step table of the cases, a row each, in order; raises InputError for a config that is not there."""
    rows: dict[tuple, list[int]] = {}
    for number, (name, degree, hardware, _) in enumerate(chosen):
        rows.setdefault((name, degree, hardware), []).append(number)
    frames = []
    for (name, degree, hardware), numbers in rows.items():
        if name not in configs:
            raise InputError(f"golden: config {name!r} is not among {', '.join(configs)}")
        deployment = Deployment(catalog.from_hf_config(configs[name], name), degree, hardware)
        frames.append(
            step_table(deployment, [chosen[number][3] for number in numbers]).set_index(pd.Index(numbers))
        )
    return pd.concat(frames).sort_index()


def make(predict: Predict, names: list[str]) -> dict:
    """The golden content; `predict` gives features, base_us, trust, margin and us of a step table."""
    chosen = cases()
    numbers = predict(table_of(chosen, CONFIGS))
    vectors = []
    for (name, degree, hardware, batch), row in zip(chosen, numbers.to_dict("records"), strict=True):
        vectors.append(
            {
                "config": name,
                "tensor_parallelism": degree,
                "hardware": hardware,
                "requests": [list(request) for request in batch],
                "features": [_short(row[feature]) for feature in names],
                "base_us": float(row["base_us"]),
                "trust": float(row["trust"]),
                "margin": _short(row["margin"]),
                "us": float(row["us"]),
            }
        )
    return {
        "format": FORMAT,
        "tolerance": TOLERANCE,
        "feature_names": names,
        "configs": CONFIGS,
        "vectors": vectors,
    }


def _short(value: float) -> float:
    """A float32 as the shortest decimal that rounds to it."""
    return float(str(np.float32(value)))


def dump(content: dict) -> bytes:
    """JSON with a vector a line."""
    head = json.dumps(
        {key: value for key, value in content.items() if key != "vectors"}, separators=(",", ":")
    )
    lines = ",\n".join(json.dumps(vector, separators=(",", ":")) for vector in content["vectors"])
    return f'{head[:-1]},"vectors":[\n{lines}\n]}}\n'.encode()


def compare(golden: dict, fitted_by_route: dict[str, FittedResidual], predict: Predict, where: str) -> dict:
    """Largest relative differences between the vectors and what is computed now; raises InputError naming the
    first vector off.
    """
    vectors = check(golden, where)
    chosen = [
        (entry["config"], entry["tensor_parallelism"], entry["hardware"], entry["requests"])
        for entry in vectors
    ]
    table = table_of(chosen, golden["configs"])
    numbers, names = predict(table), golden["feature_names"]
    expected = {"margin": [entry["margin"] for entry in vectors], "us": [entry["us"] for entry in vectors]}
    worst = {
        "feature": (
            relative(numbers[names].to_numpy(), np.array([entry["features"] for entry in vectors])).max(
                axis=1
            )
        ),
        "margin": relative(walk(fitted_by_route, table, numbers[names]), np.array(expected["margin"])),
        "us": relative(numbers["us"].to_numpy(), np.array(expected["us"])),
    }
    for name, limit in (("feature", TOLERANCE["features"]), ("margin", 1e-5), ("us", TOLERANCE["us"])):
        if not (worst[name] <= limit).all():
            bad = int(np.flatnonzero(~(worst[name] <= limit))[0])
            raise InputError(
                f"{where}: vector {bad}: {name} differs by {worst[name][bad]:.3g} relative; expected at most"
                f" {limit}"
            )
    return {
        "vectors": len(vectors),
        **{f"worst_{name}": float(values.max()) for name, values in worst.items()},
    }


def check(golden: object, where: str) -> list[dict]:
    """The vectors of a golden file; raises InputError if it is none."""
    vector = {
        "type": "object",
        "required": ["config", "tensor_parallelism", "hardware", "requests", "features", "margin", "us"],
    }
    bundle_json.check(
        golden,
        {
            "type": "object",
            "required": ["format", "feature_names", "configs", "vectors"],
            "properties": {
                "format": {"const": FORMAT},
                "configs": {"type": "object"},
                "vectors": {"type": "array", "minItems": MIN_VECTORS, "items": vector},
            },
        },
        where,
    )
    return golden["vectors"]


def walk(fitted_by_route: dict[str, FittedResidual], table: pd.DataFrame, matrix: pd.DataFrame) -> np.ndarray:
    """The margin by bundle_trees instead of XGBoost, float32 of shape (rows,)."""
    moe = table["num_experts"].to_numpy() >= 2
    margin = np.zeros(len(table), np.float32)
    for route, rows in (("dense", ~moe), ("moe", moe)):
        content = json.loads(bytes(fitted_by_route[route].booster.save_raw("json")))
        trees = bundle_trees.Trees.of(bundle_trees.check_booster(content, list(matrix.columns), route))
        margin[rows] = trees.margin(matrix.to_numpy(np.float32)[rows])
    return margin


def relative(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|found - expected| / |expected|; absolute where 0 is expected."""
    scale = np.where(expected == 0, 1.0, np.abs(expected))
    return np.abs(found.astype(float) - expected) / scale
