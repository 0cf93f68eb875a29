"""A batch's composition columns are what counting request by request gives."""

from __future__ import annotations

import builders
import numpy as np
import pytest

from h3.common.errors import InputError
from h3.steps import batch, catalog
from h3.steps.batch import Deployment

LLAMA = Deployment(catalog.MODELS["llama-2-7b"], 1, "H100")


def step_row(requests):
    """Composition columns of one step, counted request by request."""
    row = dict.fromkeys(batch.COMPOSITION, 0)
    for progress, new, prompt in requests:
        if new and progress < prompt:
            row["num_prefill_reqs"] += 1
            row["prefill_tokens"] += new
            row["prefill_kv_tokens_sum"] += progress
            row["prefill_attended_tokens"] += sum(progress + token for token in range(1, new + 1))
        elif new:
            row["num_decode_reqs"] += 1
            row["decode_tokens"] += new
            row["decode_kv_tokens_sum"] += progress + new
    return row


def counted(requests):
    """What the batch module makes of one step."""
    return batch.compose(*batch.flatten([requests])).iloc[0].to_dict()


def test_a_request_prefills_until_its_prompt_is_computed():
    row = counted([(511, 1, 512), (512, 1, 512)])
    assert (row["num_prefill_reqs"], row["num_decode_reqs"]) == (1, 1)


def test_a_row_counts_query_key_pairs_one_by_one():
    row = counted([(600, 1, 512), (100, 16, 200), (0, 7, 7)])
    expected = builders.composition(decode=[601], prefill=[(16, 100), (7, 0)])
    assert row == {name: expected[name] for name in row}


def test_a_request_without_new_tokens_is_not_in_the_step():
    assert set(counted([(600, 0, 512), (0, 0, 512)]).values()) == {0}


def test_many_batches_at_once_equal_one_at_a_time():
    generator = np.random.default_rng(0)
    batches = [
        generator.integers(0, [3000, 50, 3000], (size, 3)).tolist() for size in generator.integers(0, 40, 50)
    ]
    table = batch.step_table(LLAMA, batches)
    for row, requests in zip(table[list(batch.COMPOSITION)].to_dict("records"), batches, strict=True):
        assert row == step_row(requests)


def test_uniform_steps_equal_their_requests():
    table = batch.uniform(
        np.array([3, 0, 5]), np.array([700, 700, 64]), np.array([0, 300, 16]), np.array([9, 100, 0])
    )
    for row, requests in zip(
        table.to_dict("records"),
        [
            [(700, 1, 700)] * 3,
            [(100, 300, 400)],
            [(64, 1, 64)] * 5 + [(0, 16, 16)],
        ],
        strict=True,
    ):
        assert row == step_row(requests)


def test_a_step_table_carries_architecture_and_setup():
    table = batch.step_table(
        Deployment(catalog.MODELS["mixtral-8x7b-v0-1"], 2, "nvidia h100 80gb hbm3"), [[], [(5, 1, 5)]]
    )
    assert table["hardware"].tolist() == ["H100", "H100"]
    assert table["num_experts"].tolist() == [8, 8]


@pytest.mark.parametrize(
    "request_", [(1, 2), (1, 2, 3, 4), (-1, 1, 5), (1, 1.5, 2), (True, 1, 2), (2**31, 1, 1), ("1", 1, 2)]
)
def test_what_is_no_request_is_refused_with_its_number(request_):
    with pytest.raises(InputError, match="request 1 of the batch"):
        batch.flatten([[(0, 1, 1), request_]])
    with pytest.raises(InputError, match="request 1 of the batch"):
        batch.step_table(LLAMA, [[(0, 1, 1), request_]])


@pytest.mark.parametrize(
    ("tp", "hardware", "said"),
    [
        (3, "H100", "does not divide 32"),
        (0, "H100", "0"),
        (True, "H100", "True"),
        (1, "TPU", "unknown hardware"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(tp, hardware, said):
    with pytest.raises(InputError, match=said):
        Deployment(catalog.MODELS["llama-2-7b"], tp, hardware)
