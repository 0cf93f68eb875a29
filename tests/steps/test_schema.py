"""The step table: what it refuses and how it says so, and that a written table is the table that is read."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Steps, step, steps

from h3.common.errors import InputError
from h3.steps import schema

TABLE = Steps().run("llama-2-7b", rows=5).run("mixtral-8x7b-v0-1", rows=5).table()


def test_every_column_is_documented_once_and_every_measure_has_a_unit_or_is_a_share():
    assert len(set(schema.NAMES)) == len(schema.NAMES)
    assert all(column.meaning for column in schema.COLUMNS)
    assert {name for name in schema.NAMES if name.endswith("_us")} == {
        c.name for c in schema.COLUMNS if c.unit == "us"
    }
    assert all(column.unit == "tokens" for column in schema.COMPOSITION if "tokens" in column.name)


def test_a_valid_table_comes_back_in_the_order_and_dtypes_of_the_columns():
    shuffled = TABLE[list(reversed(TABLE.columns))]
    checked = schema.check(shuffled, "here")
    assert tuple(checked.columns) == schema.NAMES
    assert [str(dtype) for dtype in checked.dtypes] == [column.dtype for column in schema.COLUMNS]
    pd.testing.assert_frame_equal(checked, TABLE)


def test_columns_that_are_absent_and_may_be_null_become_null_not_zero():
    optional = [column.name for column in schema.COLUMNS if column.nullable and column.default is None]
    checked = schema.check(TABLE.drop(columns=optional), "here")
    assert checked[optional].isna().all().all()


@pytest.mark.parametrize("column", [column.name for column in schema.COLUMNS if not column.nullable])
def test_a_missing_column_is_named_with_what_it_means(column):
    with pytest.raises(InputError, match=f"^here: column '{column}' is missing; expected"):
        schema.check(TABLE.drop(columns=column), "here")


def test_an_unknown_column_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"here: unknown column 'mood'.*period_us"):
        schema.check(TABLE.assign(mood=1), "here")


def _with(column, row, value):
    frame = TABLE.astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("experiment", None, "is null in row 3; expected text"),
        ("step_id", None, "is null in row 3; expected count"),
        ("bytes_per_parameter", np.nan, "is null in row 3; expected real"),
        ("period_us", np.inf, "is inf in row 3; expected a finite number"),
        ("start_us", -np.inf, "is -inf in row 3"),
        ("period_us", -1.0, "is -1.0 in row 3; expected a finite number of at least 0"),
        ("gap_steps", 0, "is 0 in row 3; expected a finite number of at least 1"),
        ("num_layers", 0, "is 0 in row 3"),
        ("decode_tokens", "many", "expected real"),
        ("step_id", "first", "expected count"),
    ],
)
def test_a_bad_value_is_refused_with_column_row_and_expectation(column, value, says):
    with pytest.raises(InputError, match=f"here: column '{column}'.*{says}"):
        schema.check(_with(column, 3, value), "here")


def test_a_count_with_a_fraction_is_refused_rather_than_cut():
    with pytest.raises(InputError, match="tensor_parallelism"):
        schema.check(TABLE.assign(tensor_parallelism=1.5), "here")


def test_a_start_before_zero_and_null_quantities_are_allowed():
    schema.check(_with("start_us", 3, -5.0), "here")
    assert (
        schema.check(_with("decode_kv_tokens_sum", 3, None), "here")["decode_kv_tokens_sum"].isna().sum() == 1
    )


def test_equal_tables_have_equal_digests_and_any_change_another():
    assert schema.digest(TABLE) == schema.digest(TABLE.copy().set_index(TABLE.index + 7))
    changed = [
        TABLE.assign(period_us=TABLE["period_us"] + 1e-9 * TABLE["period_us"].max()),
        TABLE.iloc[::-1],
        TABLE.iloc[:-1],
        TABLE.assign(workload="other"),
        TABLE.rename(columns={"period_us": "duration_us", "duration_us": "period_us"}),
    ]
    assert len({schema.digest(TABLE), *map(schema.digest, changed)}) == len(changed) + 1


def test_a_written_table_is_read_back_with_its_metadata_and_has_its_rejects_beside_it(tmp_path):
    rejects = schema.rejects_frame([("a", "a/data.csv", 7, "not_finite", "request 5")])
    path = tmp_path / "new" / "steps.parquet"
    schema.write(TABLE, rejects, path, {"source": "requests"})
    table, record = schema.read(path)
    pd.testing.assert_frame_equal(table, TABLE)
    assert (record["source"], record["rows"], record["digest"]) == (
        "requests",
        len(TABLE),
        schema.digest(TABLE),
    )
    assert {"python", "h3", "pandas", "pyarrow"} <= set(record["versions"])
    beside = pd.read_parquet(tmp_path / "new" / "steps.rejects.parquet")
    assert list(beside.columns) == list(schema.REJECT_NAMES)
    assert beside.iloc[0].to_list() == ["a", "a/data.csv", 7, "not_finite", "request 5"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["steps.parquet", "steps.rejects.parquet"]


def test_nulls_and_an_empty_table_survive_writing(tmp_path):
    hole = step(decode=[5], decode_kv_tokens_sum=np.nan, max_num_seqs=np.nan)
    for name, table in {"hole": hole, "empty": TABLE.iloc[:0]}.items():
        schema.write(table, schema.empty_rejects(), tmp_path / f"{name}.parquet", {})
        pd.testing.assert_frame_equal(schema.read(tmp_path / f"{name}.parquet")[0], table)


def test_writing_a_bad_table_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "steps.parquet"
    schema.write(TABLE, schema.empty_rejects(), path, {})
    with pytest.raises(InputError, match="period_us"):
        schema.write(TABLE.assign(period_us=-1.0), schema.empty_rejects(), path, {})
    assert schema.digest(schema.read(path)[0]) == schema.digest(TABLE)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_table_of_before_is_read_and_its_models_are_the_same_as_now(tmp_path):
    later = [column.name for column in schema.COLUMNS if column.default is not None]
    of_before = TABLE.drop(columns=later)
    path = tmp_path / "steps.parquet"
    schema.write(TABLE, schema.empty_rejects(), path, {})
    record = json.loads(pq.read_schema(path).metadata[b"h3"]) | {"digest": schema.digest(of_before)}
    stored = pa.Table.from_pandas(of_before, preserve_index=False)
    pq.write_table(stored.replace_schema_metadata({"h3": json.dumps(record)}), path)
    pd.testing.assert_frame_equal(schema.read(path)[0], TABLE)


def test_what_is_no_step_table_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "steps.parquet"
    with pytest.raises(InputError, match="no such file"):
        schema.read(path)
    path.write_text("hello")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        schema.read(path)
    TABLE.to_parquet(path)
    with pytest.raises(InputError, match="step-table format None; expected '1'"):
        schema.read(path)


def test_a_truncated_table_is_refused(tmp_path):
    path = tmp_path / "steps.parquet"
    schema.write(TABLE, schema.empty_rejects(), path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        schema.read(path)


def test_a_table_whose_rows_were_changed_after_writing_is_refused(tmp_path):
    path = tmp_path / "steps.parquet"
    schema.write(TABLE, schema.empty_rejects(), path, {})
    metadata = pq.read_schema(path).metadata
    forged = pa.Table.from_pandas(steps(TABLE.iloc[:-1]), preserve_index=False).replace_schema_metadata(
        metadata
    )
    pq.write_table(forged, path)
    with pytest.raises(InputError, match=r"digest .* of the rows is not"):
        schema.read(path)


def test_a_table_of_another_format_version_is_refused(tmp_path):
    path = tmp_path / "steps.parquet"
    schema.write(TABLE, schema.empty_rejects(), path, {})
    record = json.loads(pq.read_schema(path).metadata[b"h3"]) | {"format_version": "0"}
    pq.write_table(pq.read_table(path).replace_schema_metadata({"h3": json.dumps(record)}), path)
    with pytest.raises(InputError, match="step-table format '0'; expected '1'"):
        schema.read(path)
