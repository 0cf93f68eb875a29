"""What strangers send to be predicted: each row is answered, or one line names it, its field and what was
expected; through MLflow's own server with status 400 and without a stack trace.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from servers import free_port

from h3 import bundle
from h3.bundle import standing
from h3.common.errors import InputError
from h3.steps import schema
from h3.tracking import service
from h3.tracking.pyfunc import periods_us

GOOD = {
    "hardware": "H100",
    "tensor_parallelism": 4,
    "num_layers": 80,
    "hidden_size": 8192,
    "num_heads": 64,
    "num_kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 32000,
    "dense_ffn_size": 28672,
    "num_moe_layers": 0,
    "num_experts": 0,
    "experts_per_token": 0,
    "expert_ffn_size": 0,
    "shared_ffn_size": 0,
    "bytes_per_parameter": 2,
    "num_prefill_reqs": 0,
    "num_decode_reqs": 64,
    "decode_kv_tokens_sum": 44800,
}
SIZES = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size")
BAD = [
    *((name, value, "expected a whole number from 1 to") for name in SIZES for value in (-80, 0, 0.5, 1e300)),
    *((name, None, "expected a number") for name in SIZES),
    *(("tensor_parallelism", value, "expected a whole number from 1 to") for value in (0, -1, 1.5, 1e9)),
    *(("bytes_per_parameter", value, "expected a number from 0.05 to 16") for value in (0, -2, 17, 1e300)),
    *(("num_decode_reqs", value, "expected a number from 0 to 1e+06") for value in (-64, 1e7, 1e300)),
    ("num_decode_reqs", float("inf"), "expected a number from 0 to 1e+06"),
    ("num_decode_reqs", float("nan"), "expected a number"),
    ("decode_kv_tokens_sum", -1e9, "expected a number from 0 to 1e+12"),
    ("decode_kv_tokens_sum", float("inf"), "expected a number from 0 to 1e+12"),
    ("decode_kv_tokens_sum", 63, "expected at least num_decode_reqs=64"),
    ("num_layers", "eighty", "expected a number"),
    ("num_layers", True, "expected a number"),
    ("num_layers", [80], "expected a number"),
    ("num_layers", {"a": 1}, "expected a number"),
    ("num_kv_heads", 128, "expected at most num_heads=64"),
    ("num_moe_layers", 81, "expected at most num_layers=80"),
    ("experts_per_token", 2, "expected at most num_experts=0"),
    ("hardware", "H1000", "expected one of H100, "),
    ("hardware", None, "expected one of H100, "),
    ("hardware", 100, "expected one of H100, "),
]


@pytest.fixture(scope="module")
def champion() -> bundle.Bundle:
    return bundle.read(standing.SHIPPED)


def rows_with(name: str, value: object) -> pd.DataFrame:
    """Three good rows, of which the middle one has another value."""
    rows = [dict(GOOD), GOOD | {name: value}, dict(GOOD)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_a_row_that_no_server_makes_is_named_with_field_value_and_what_was_expected(
    champion, name, value, expected
):
    with pytest.raises(InputError) as error:
        periods_us(champion, rows_with(name, value))
    said = str(error.value)
    assert said.startswith("row 1: ") or "multiple" in said
    assert expected in said or "expected a multiple of" in said
    assert name in said
    assert "\n" not in said and len(said) < 300


def test_a_degree_that_does_not_divide_the_heads_is_named(champion):
    with pytest.raises(InputError, match=r"row 1: num_heads=64; expected a multiple of tensor_parallelism=3"):
        periods_us(champion, rows_with("tensor_parallelism", 3))


@pytest.mark.parametrize("name", ["hardware", "num_layers", "num_decode_reqs"])
def test_a_column_that_is_needed_and_missing_is_named(champion, name):
    with pytest.raises(InputError, match=f"step rows: column '{name}' is missing; expected hardware, "):
        periods_us(champion, rows_with("num_layers", 80).drop(columns=name))


def test_columns_of_later_versions_may_be_missing_or_null(champion):
    plain = periods_us(champion, rows_with("num_layers", 80))
    named = periods_us(champion, rows_with("num_layers", 80).assign(ffn_matrices=[None, 3.0, None]))
    assert named["period_us"].tolist() == plain["period_us"].tolist()


def test_h3s_own_table_is_taken_as_it_is(champion):
    golden = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
    assert golden.is_dir()
    table = schema.check(
        pd.DataFrame([GOOD]).assign(
            experiment="e",
            model="m",
            workload="w",
            log="requests",
            clock=0,
            step_id=1,
            period_us=1e4,
            gap_steps=1,
        ),
        "table",
    )
    told = periods_us(champion, table)
    assert np.isfinite(told["period_us"]).all()


Ask = Callable[[bytes], tuple[int, str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Ask]:
    """What asks a real `mlflow models serve` of the shipped champion: status and body."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    service.write(standing.SHIPPED, folder / "service")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", "service", "--env-manager", "local"),
        *("-h", "127.0.0.1", "-p", str(port)),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )

    def ask(body: bytes) -> tuple[int, str]:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                time.sleep(0.3)
        yield ask
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def records(*rows: dict) -> bytes:
    return json.dumps({"dataframe_records": list(rows)}).encode()


def test_the_server_answers_good_rows_ten_thousand_at_a_time(served):
    status, body = served(records(GOOD))
    assert status == 200
    assert json.loads(body)["predictions"][0]["period_us"] > 1000
    status, body = served(records(*[GOOD] * 10_000))
    assert status == 200 and len(json.loads(body)["predictions"]) == 10_000


@pytest.mark.parametrize(
    ("name", "value", "expected"), [case for case in BAD if not isinstance(case[1], float)][::3]
)
def test_the_server_answers_a_wrong_row_with_400_the_line_and_no_stack_trace(served, name, value, expected):
    status, body = served(records(GOOD, GOOD | {name: value}))
    assert status == 400
    assert "row 1: " in body and name in body
    assert expected in body or "expected a multiple of" in body
    assert "Traceback" not in body and "stack_trace" not in body


BODIES = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "no rows": b"{}",
    "a number for rows": b'{"dataframe_records": 5}',
    "rows that are numbers": b'{"dataframe_records": [5]}',
    "no row": b'{"dataframe_records": []}',
    "a field less": records({key: value for key, value in GOOD.items() if key != "num_layers"}),
    "no UTF-8": b"\xff",
    "infinite": records(GOOD).replace(b"44800", b"1e999"),
    "another shape": b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}',
}


@pytest.mark.parametrize("name", BODIES)
def test_the_server_answers_what_holds_no_rows_with_400_and_no_stack_trace(served, name):
    status, body = served(BODIES[name])
    assert status == 400
    assert "Traceback" not in body and "stack_trace" not in body
