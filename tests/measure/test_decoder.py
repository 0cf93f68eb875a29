"""The decoder's step against a naive float32 one, in PyTorch and as Triton kernels in the interpreter.

make test-measure
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from measure import ops_torch, ops_triton, reference, shard, verify
from measure.batch import Buffers, Limits
from measure.decoder import Decoder, Setup
from measure.experts import Experts, grouped
from measure.launch import Launcher
from measure.plan import Step

CPU = torch.device("cpu")
LIMITS = Limits(max_tokens=64, max_requests=16, max_context=128, kv_pages=40)


def error(arch: str, setup: Setup, step: Step, tp: int = 1) -> float:
    """Relative error of the step's logits against the reference."""
    small = shard.of(verify.TOYS[arch], tp, "toy")
    decoder, buffers = Decoder(small, setup, LIMITS), Buffers(LIMITS, CPU, small.vocab)
    launch = Launcher(decoder, buffers).prepare(step)
    weights = reference.copied(decoder)
    launch.run()
    expected = reference.logits(weights, step, launch.batch)
    return float((decoder.logits(launch.batch).float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_dense_and_expert_models_agree_with_the_reference_in_decode_mixed_and_prefill_steps(dtype):
    errors = verify.verify(Setup(CPU, dtype))
    assert set(errors) == {f"{model} {step}" for model in verify.TOYS for step in verify.STEPS}
    assert max(errors.values()) < verify.TOLERANCE[dtype]


@pytest.mark.parametrize(("arch", "tp", "kv_heads"), [("experts", 2, 2), ("dense", 2, 1), ("dense", 4, 1)])
def test_a_rank_of_several_holds_its_share_of_heads_with_kv_heads_replicated_where_they_are_fewer(
    arch, tp, kv_heads
):
    assert shard.of(verify.TOYS[arch], tp, "toy").kv_heads == kv_heads
    assert error(arch, Setup(CPU, torch.float32), verify.STEPS["mixed"], tp) < 1e-5


def test_requests_that_share_pages_of_a_prefix_read_the_same_keys():
    step = Step("grid", "toy", 1, (40, 50), ((5, 32),), prefixes=((3, 2), (3, 2), (3, 2)))
    assert error("dense", Setup(CPU, torch.float32), step) < 1e-5
    buffers = Buffers(LIMITS, CPU, 128)
    tables = buffers.load(step, 8).tables
    assert (tables[0, :2] == tables[1, :2]).all()
    assert (
        len(
            set(
                tables[0, 2:3].tolist()
                + tables[1, 2:4].tolist()
                + tables[2, 2:3].tolist()
                + tables[0, :2].tolist()
            )
        )
        == step.pages
    )


@pytest.fixture
def few_programs(monkeypatch):
    """The interpreter runs one program after the other: split decode attention into four parts, not into
    64.
    """
    monkeypatch.setattr(ops_triton, "PROGRAMS", 16)


def test_whole_steps_agree_with_triton_kernels(few_programs):
    setup = Setup(CPU, torch.float32, "triton")
    assert error("dense", setup, Step("grid", "toy", 1, (70, 3), ((17, 5),))) < 1e-5
    assert error("experts", setup, Step("grid", "toy", 1, (33,))) < 1e-5


def test_a_graph_kept_for_a_size_serves_every_later_step_of_that_size(monkeypatch):
    # A captured graph runs the same launches on the same addresses: so does the captured part itself, called
    # again.
    monkeypatch.setattr(Launcher, "_capture", lambda self, part: SimpleNamespace(replay=part))
    small = shard.of(verify.TOYS["experts"], 1, "toy")
    decoder, buffers = Decoder(small, Setup(CPU, torch.float32), LIMITS), Buffers(LIMITS, CPU, small.vocab)
    launcher = Launcher(decoder, buffers)
    launcher.captures = True
    for step, mode in (
        (Step("grid", "toy", 1, (5, 70, 33, 9, 2)), "full"),
        (Step("grid", "toy", 1, (90, 1, 2, 30, 8, 8, 8)), "full"),
        (Step("grid", "toy", 1, (40,), ((5, 0),)), "piecewise"),
        (Step("grid", "toy", 1, (9, 60), ((2, 9), (3, 0))), "piecewise"),
    ):
        launch = launcher.prepare(step)
        assert (launch.mode, launch.batch.padded_tokens) == (mode, 8)
        buffers.refresh(launch.batch)
        weights = reference.copied(decoder)
        chosen = launch.run()
        expected = reference.logits(weights, step, launch.batch)
        torch.testing.assert_close(decoder.logits(launch.batch), expected, rtol=1e-4, atol=1e-5)
        assert chosen.tolist() == expected.argmax(-1).tolist()
    assert len(launcher.whole) == len(launcher.pieces) == 1 and len(launcher.pieces[8]) == small.layers + 1


def both(
    operation: str, *shape_of: torch.Tensor, **rest: object
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What an operation leaves in copies of its tensors, by both implementations."""
    left = []
    for ops in (ops_torch, ops_triton):
        copies = [tensor.clone() for tensor in shape_of]
        result = getattr(ops, operation)(*copies, *rest.values())
        left.append([*copies, *([result] if result is not None else [])])
    return left[0], left[1]


def test_norm_swiglu_and_combination_of_experts_are_the_same_in_triton():
    draw = torch.Generator().manual_seed(1)
    hidden, residual, weight = (torch.randn(shape, generator=draw) for shape in ((5, 96), (5, 96), (96,)))
    place, weights = torch.randperm(10, generator=draw).view(5, 2), torch.rand(5, 2, generator=draw)
    out, rows = torch.full((5, 96), torch.nan), torch.randn(10, 96, generator=draw)
    for name, tensors in (
        ("add_norm", (hidden, residual, weight)),
        ("silu_mul", (torch.randn(3, 80, generator=draw),)),
        ("combine", (rows, place, weights, out)),
    ):
        for found, expected in zip(*both(name, *tensors), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("arch", "tp"), [("dense", 1), ("experts", 2)])
def test_rotary_store_and_both_attentions_are_the_same_in_triton_with_padding_untouched(
    few_programs, arch, tp
):
    small = shard.of(verify.TOYS[arch], tp, "toy")
    buffers = Buffers(LIMITS, CPU, small.vocab)
    draw = Setup(CPU, torch.float32)
    cache = tuple(
        draw.random(LIMITS.kv_pages, small.kv_heads, 16, small.head_dim, sigma=1.0) for _ in range(2)
    )
    angles = Decoder(small, draw, LIMITS).angles
    for step, padded, decodes in (
        (Step("grid", "toy", 1, (100, 7)), 4, 4),
        (Step("grid", "toy", 1, (), ((9, 30), (2, 0))), 16, None),
    ):
        batch = buffers.load(step, padded, decodes)
        qkv, out = (
            draw.random(padded, small.qkv, sigma=1.0),
            torch.full((padded, small.heads * small.head_dim), torch.nan),
        )
        results = []
        for ops in (ops_torch, ops_triton):
            own, sides, attended = qkv.clone(), tuple(side.clone() for side in cache), out.clone()
            ops.rotate_and_store(own, batch, angles, sides, small)
            (ops.decode_attention if step.decodes else ops.prefill_attention)(
                own, batch, sides, attended, small
            )
            results.append((own[: step.tokens, : small.heads * small.head_dim], *sides, attended))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
        padding = results[0][-1][step.tokens :]
        assert (padding == 0).all() if step.decodes else padding.isnan().all()


def test_grouped_products_are_those_of_each_group_also_where_a_group_is_empty():
    rows, matrices = torch.randn(6, 16).bfloat16(), torch.randn(4, 24, 16).bfloat16()
    ends = torch.tensor([2, 2, 5, 6], dtype=torch.int32)
    expert = [0, 0, 2, 2, 2, 3]
    expected = torch.stack(
        [matrices[owner].float() @ row.float() for owner, row in zip(expert, rows, strict=True)]
    )
    torch.testing.assert_close(grouped(rows, matrices, ends).float(), expected, rtol=2e-2, atol=5e-2)
    torch.testing.assert_close(grouped(rows.float(), matrices.float(), ends), expected)


def test_random_tokens_visit_most_experts_evenly():
    setup = Setup(CPU, torch.float32)
    experts = Experts(setup.random(8, 256), setup.random(8, 8, 256), setup.random(8, 256, 4), 2)
    weights, chosen = experts.route(torch.randn(2000, 256))
    assert torch.allclose(weights.sum(1), torch.ones(2000))
    share = torch.bincount(chosen.flatten(), minlength=8) / 4000
    assert share.min() > 0.05 and share.max() < 0.25
