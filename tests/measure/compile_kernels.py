"""Compile every Triton kernel for an H100, without one: prints {kernel: bytes of shared memory} as JSON
(test_kernels.py runs it).

A process of its own, since Triton decides at import whether it interprets or compiles.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import triton  # noqa: E402
from measure import kernels  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
BF16, FLOATS, INTS = "*bf16", "*fp32", "*i32"
CACHE = {"keys": BF16, "values": BF16, "tables": INTS, "scale": "fp32"}
CHUNKS = {"chunk_new": INTS, "chunk_before": INTS, "chunk_first": INTS}
DECODE = {"qkv": BF16, **CACHE, "lens": INTS, "partial": FLOATS, "sums": FLOATS}
PREFILL = {"qkv": BF16, **CACHE, **CHUNKS, "out": BF16}
# Kernel, types of its arguments (others are int32), constants, warps: as ops_triton launches them for the
# study's models.
CASES = (
    ("add_norm", {"hidden": BF16, "residual": BF16, "weight": BF16, "epsilon": "fp32"}, {"BLOCK": 8192}, 8),
    (
        "rotate_and_store",
        {"qkv": BF16, "positions": INTS, "slots": INTS, "angles": FLOATS, "keys": BF16, "values": BF16},
        {"HEADS": 16, "KV_HEADS": 2, "HALF": 64, "PAGE": 16, "ROWS": 16},
        4,
    ),
    *(
        ("decode_parts", DECODE, {"GROUP": group, "ROWS": 16, "WIDTH": 128, "PAGE": 16, "KEYS": 64}, 4)
        for group in (1, 8)
    ),
    *(
        ("join_parts", {"partial": FLOATS, "sums": FLOATS, "out": BF16}, {"PARTS": parts, "WIDTH": 128}, 2)
        for parts in (1, 64)
    ),
    *(
        (
            "prefill",
            PREFILL,
            {"GROUP": 8, "KV_HEADS": 2, "WIDTH": 128, "PAGE": 16, "QUERIES": queries, "KEYS": 64},
            warps,
        )
        for queries, warps in ((16, 4), (64, 4), (128, 8))
    ),
    ("silu_mul", {"gate_up": BF16, "out": BF16}, {"BLOCK": 1024}, 4),
    (
        "combine",
        {"rows": BF16, "place": "*i64", "weights": FLOATS, "out": BF16},
        {"TOP_K": 2, "BLOCK": 1024},
        4,
    ),
)


def shared_bytes(name: str, types: dict[str, str], constants: dict[str, int], warps: int) -> int:
    """Shared memory of a kernel compiled to machine code for an H100."""
    function = getattr(kernels, name)
    signature = {
        argument: types.get(argument, "constexpr" if argument in constants else "i32")
        for argument in function.arg_names
    }
    aligned = {
        (number,): [["tt.divisibility", 16]]
        for number, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=H100, options={"num_warps": warps, "num_stages": 3})
    assert compiled.asm["cubin"]
    return compiled.metadata.shared


if __name__ == "__main__":
    print(
        json.dumps(
            {
                f"{name} {constants}": shared_bytes(name, types, constants, warps)
                for name, types, constants, warps in CASES
            }
        )
    )
