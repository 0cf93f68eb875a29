"""Steps from request logs: the truth of a simulated server comes back, and bad input is refused, rejected or
left out."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
from builders import Server, source

from h3.common.config import validated
from h3.common.errors import InputError
from h3.ingest import IngestConfig
from h3.sources.requests import files, steps
from h3.steps import schema

NAME = "20260101-000000-llama-2-7b-tp1-general"
PERIOD_US = 20_000.0


def busy_server(steps=600):
    """A server that is busy throughout, with requests of many lengths."""
    return Server([PERIOD_US] * steps).serve(0, steps, 50).serve_at_random(60, seed=2)


def load(root, sample_every=1, **settings):
    return steps.load(source("requests", root, sample_every=sample_every, **settings))


def entry(ingested, name=NAME):
    return ingested.record["experiments"][name]


def reasons(ingested):
    return ingested.rejects["reason"].tolist()


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    server = busy_server()
    root = tmp_path_factory.mktemp("known")
    server.write_tracev2(root)
    return server, load(root)


def test_periods_are_the_servers(known):
    _, ingested = known
    assert ingested.table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.01)
    assert (ingested.table["log"] == "requests").all()
    assert entry(ingested)["clock_residual_ratio"] < 1e-3


def test_decode_requests_and_their_kv_tokens_are_exact_in_every_step(known):
    server, ingested = known
    table = ingested.table.set_index("step_id")
    assert table.index.tolist() == [number for number in range(600) if server.batch(number)]
    for number in table.index[::3]:
        contexts, row = server.batch(number), table.loc[number]
        assert row["num_decode_reqs"] == row["decode_tokens"] == len(contexts)
        assert row["decode_kv_tokens_sum"] == sum(contexts)
        assert row["decode_kv_tokens_max"] == max(contexts)
        assert row["decode_kv_tokens_mean"] == pytest.approx(sum(contexts) / len(contexts))


def test_every_token_but_the_first_of_a_request_is_decoded_in_exactly_one_step(known):
    server, ingested = known
    assert ingested.table["decode_tokens"].sum() == sum(
        request.output_tokens - 1 for request in server.requests
    )


def test_steps_start_when_the_server_started_them(known):
    server, ingested = known
    table = ingested.table
    assert table["start_us"].to_numpy() == pytest.approx(
        server.times_us[table["step_id"]], abs=0.05 * PERIOD_US
    )


def test_what_a_request_log_does_not_hold_is_null(known):
    _, ingested = known
    assert ingested.table[[column.name for column in schema.STATE]].isna().all().all()
    assert ingested.table["duration_us"].isna().all()


def regular_server():
    """A request every third step, 100 prompt tokens each: a third of a prefill a step."""
    return Server([PERIOD_US] * 2000).serve_many(every=3, output_tokens=80, prompt_tokens=100)


def prefilling(root, **assumed):
    """Steps away from both ends whose window holds a prefill."""
    return load(root, **assumed).table.query("200 < step_id < 1800 and num_prefill_reqs > 0")


def of_a_prefill(table, name):
    """A column a prefill request, the same in every row."""
    values = (table[name] / table["num_prefill_reqs"]).to_numpy()
    assert np.ptp(values) < 1e-6
    return values.mean()


@pytest.mark.parametrize(("assumed", "new"), [("repeat", 100 - 96), ("uncached", 100)])
def test_a_prefill_computes_what_the_assumption_leaves_uncached(tmp_path, assumed, new):
    regular_server().write_tracev2(tmp_path)
    table = prefilling(tmp_path, prefill_tokens=assumed)
    assert of_a_prefill(table, "prefill_tokens") == pytest.approx(new)
    assert of_a_prefill(table, "prefill_kv_tokens_sum") == pytest.approx(100 - new)
    assert of_a_prefill(table, "prefill_attended_tokens") == pytest.approx(
        sum(100 - new + token for token in range(1, new + 1))
    )


def test_prefills_are_spread_over_the_window_of_the_period(tmp_path):
    regular_server().write_tracev2(tmp_path)
    table = prefilling(tmp_path)
    assert len(table) == 1599
    assert table["num_prefill_reqs"].to_numpy() == pytest.approx(1 / 3, abs=0.06)


def test_the_prefills_of_all_steps_add_up_to_the_requests(tmp_path):
    regular_server().write_tracev2(tmp_path)
    assert prefilling(tmp_path)["num_prefill_reqs"].mean() == pytest.approx(1 / 3, rel=0.01)


def test_unassumed_prompt_tokens_are_null_where_there_is_a_prefill(tmp_path):
    regular_server().write_tracev2(tmp_path)
    table = load(tmp_path, prefill_tokens="none").table
    prefilling = table["num_prefill_reqs"] > 0
    unknown = ["prefill_tokens", "prefill_kv_tokens_sum", "prefill_attended_tokens"]
    assert table.loc[prefilling, unknown].isna().all().all()
    assert (table.loc[~prefilling, unknown] == 0).all().all()


def test_a_workloads_shared_prefix_goes_before_the_assumption(tmp_path):
    regular_server().write_tracev2(tmp_path)
    table = prefilling(tmp_path, shared_prefix_tokens={"general": 50})
    assert of_a_prefill(table, "prefill_tokens") == pytest.approx(100 - 48)  # three full blocks of 16


def test_recorded_prefix_groups_go_before_any_assumption(tmp_path):
    server = Server([PERIOD_US] * 2000)
    for first in range(1, 1900, 3):
        server.serve(first, 80, 100, {"prefix_group": "a", "prefix_length": 50})
    server.write_tracev2(tmp_path)
    assert of_a_prefill(prefilling(tmp_path, prefill_tokens="uncached"), "prefill_tokens") == pytest.approx(
        150 - 48
    )


def test_an_unknown_assumption_lists_the_known(tmp_path):
    asked = {
        "source": {"name": "requests", "path": str(tmp_path), "assume": {"prefill_tokens": "some"}},
        "out": "x",
    }
    with pytest.raises(
        InputError, match=r"source\.assume\.prefill_tokens='some': .*'auto', 'repeat', 'uncached' or 'none'"
    ):
        validated(asked, IngestConfig)


def test_one_step_in_ten_is_kept_by_default_and_the_same_ones_each_time(tmp_path):
    busy_server().write_tracev2(tmp_path)
    whole, sample = load(tmp_path), load(tmp_path, sample_every=10)
    assert len(sample.table) == pytest.approx(len(whole.table) / 10, abs=1)
    assert set(np.diff(sample.table["step_id"])) == {10}
    assert schema.digest(sample.table) == schema.digest(load(tmp_path, sample_every=10).table)
    kept = whole.table[whole.table["step_id"].isin(sample.table["step_id"])].reset_index(drop=True)
    assert schema.digest(kept) == schema.digest(sample.table)


def test_packed_and_plain_logs_give_the_same_steps(tmp_path, known):
    busy_server().write_tracev2(tmp_path, packed=True)
    assert schema.digest(load(tmp_path).table) == schema.digest(known[1].table)


def test_assumptions_are_recorded(known):
    assert known[1].record["assumptions"]["prefill_tokens"] == "auto"
    assert known[1].record["assumptions"]["hardware"] == "H100"


def test_progress_tells_each_experiment(tmp_path):
    busy_server(100).write_tracev2(tmp_path)
    told = []
    steps.load(source("requests", tmp_path), told.append)
    assert told == [NAME]


# inference-perf


def test_an_inference_perf_log_gives_the_same_steps_as_a_tracev2_log(tmp_path, known):
    busy_server().write_lifecycle(tmp_path, token_times=False)
    table = load(tmp_path).table
    same = ["step_id", "num_decode_reqs", "decode_kv_tokens_sum", "decode_kv_tokens_max", "num_prefill_reqs"]
    for name in same:
        assert table[name].to_numpy() == pytest.approx(known[1].table[name].to_numpy(), abs=1e-6), name


def worst_period(table, server):
    """Largest relative miss of a period against the server's mean over the same time, off the ends."""
    inner = table.query("100 < step_id < 900")
    window = 12  # steps on either side
    truth = [server.periods_us[max(0, n - window) : n + window].mean() for n in inner["step_id"]]
    return np.abs(inner["period_us"].to_numpy() / truth - 1).max()


def test_times_of_single_tokens_pin_the_clock_within_a_request(tmp_path):
    wave = PERIOD_US * (1 + 0.3 * np.sin(np.arange(1000) / 1000 * 2 * np.pi * 4))
    server = Server(wave).serve(0, 1000).serve(0, 1000).serve(0, 990)
    server.write_lifecycle(tmp_path / "times")
    server.write_lifecycle(tmp_path / "ends", token_times=False)
    assert worst_period(load(tmp_path / "ends").table, server) > 0.2
    pinned = load(tmp_path / "times").table
    assert np.abs(pinned["start_us"] - server.times_us[pinned["step_id"]]).max() < 0.5 * PERIOD_US


def test_times_of_single_tokens_narrow_the_window_of_a_period(tmp_path):
    wave = PERIOD_US * (1 + 0.3 * np.sin(np.arange(1000) / 1000 * 2 * np.pi * 4))
    server = Server(wave).serve(0, 1000).serve(0, 1000).serve(0, 990)
    server.write_lifecycle(tmp_path)
    assert worst_period(load(tmp_path).table, server) < 0.05


def test_token_times_that_do_not_match_the_token_count_are_not_believed(tmp_path):
    server = busy_server()
    server.changes[3] = {"output_token_times": [1.0, 2.0, 3.0]}
    folder = server.write_lifecycle(tmp_path)
    log = files.read(NAME, folder / "per_request_lifecycle_metrics.json", 16)
    assert log.requests.loc[log.requests["request"] == "4", "token_times_us"].isna().all()


def test_broken_entries_of_inference_perf_are_rejected_and_the_rest_read(tmp_path):
    folder = busy_server().write_lifecycle(tmp_path)
    path = folder / "per_request_lifecycle_metrics.json"
    entries = json.loads(path.read_text())
    usable = len(entries)
    good = entries[0]
    entries += [
        "words",
        None,
        {},
        {"start_time": 1.0, "end_time": 2.0},
        good | {"start_time": "soon"},
        good | {"start_time": None},
        good | {"info": {"input_tokens": 5}},
        good | {"info": good["info"] | {"output_token_times": ["x"]}},
    ]
    path.write_text(json.dumps(entries))
    ingested = load(tmp_path)
    assert reasons(ingested) == ["broken_entry"] * 8
    assert ingested.rejects["line"].tolist() == list(range(usable + 1, usable + 9))
    assert entry(ingested)["requests"] == usable + 8


@pytest.mark.parametrize("info", ["words", [1, 2], 5])
def test_an_entry_whose_info_is_no_object_is_rejected(tmp_path, info):
    folder = busy_server().write_lifecycle(tmp_path)
    path = folder / "per_request_lifecycle_metrics.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([*entries, entries[0] | {"info": info}]))
    assert reasons(load(tmp_path)) == ["broken_entry"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[{", "not JSON"),
        (b"{}", "holds dict; expected inference-perf's array"),
        (b"\xff\xfe", "UTF-16; expected UTF-8"),
        (b"", "not JSON"),
    ],
)
def test_a_file_that_is_no_array_of_requests_is_refused(tmp_path, content, says):
    folder = busy_server(100).write_lifecycle(tmp_path)
    (folder / "per_request_lifecycle_metrics.json").write_bytes(content)
    with pytest.raises(InputError, match=says):
        load(tmp_path)


# Bad input, TraceV2


def test_a_truncated_gzip_keeps_its_whole_lines_and_says_so(tmp_path):
    folder = busy_server().write_tracev2(tmp_path, packed=True)
    path = folder / "data.csv.gz"
    whole = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(path.read_bytes()[:-300])
    ingested = load(tmp_path)
    assert reasons(ingested) == ["truncated_gzip"]
    assert 20 < entry(ingested)["requests"] - 1 < len(whole) - 1
    assert (
        ingested.rejects["line"][0] == entry(ingested)["requests"]
    )  # header and whole requests: the last line that was read


def test_a_gzip_of_two_members_is_read_whole(tmp_path, known):
    folder = busy_server().write_tracev2(tmp_path)
    content = (folder / "data.csv").read_bytes()
    (folder / "data.csv.gz").write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    (folder / "data.csv").unlink()
    assert schema.digest(load(tmp_path).table) == schema.digest(known[1].table)


def test_a_damaged_gzip_is_refused_or_cut(tmp_path):
    folder = busy_server().write_tracev2(tmp_path, packed=True)
    (folder / "data.csv.gz").write_bytes(b"not gzip at all")
    with pytest.raises(InputError, match="not gzip"):
        load(tmp_path)


@pytest.mark.parametrize("line", ["1,2,3", "", "a,b," * 20, ",".join("x" * 28)])
def test_a_broken_line_in_the_middle_is_rejected_with_its_number_and_the_rest_read(tmp_path, line):
    folder = busy_server().write_tracev2(tmp_path)
    lines = (folder / "data.csv").read_text().splitlines()
    (folder / "data.csv").write_text("\n".join([*lines[:10], line, *lines[10:]]) + "\n")
    ingested = load(tmp_path)
    assert reasons(ingested) == ["broken_line"]
    assert ingested.rejects["line"].tolist() == [11]
    assert ingested.rejects["file"][0].endswith("data.csv")
    assert entry(ingested)["requests"] == len(lines)
    assert entry(ingested)["rejected"] == 1


def test_an_unknown_column_is_refused_by_name(tmp_path):
    busy_server(100).write_tracev2(tmp_path, extra={"mood": "good"})
    with pytest.raises(InputError, match=r"data\.csv: unknown column 'mood'; TraceV2 has request_id"):
        load(tmp_path)


@pytest.mark.parametrize("column", files.REQUIRED)
def test_a_missing_column_is_refused_by_name(tmp_path, column):
    busy_server(100).write_tracev2(tmp_path, drop=(column,))
    with pytest.raises(InputError, match=f"column '{column}' is missing; expected a TraceV2 header"):
        load(tmp_path)


def test_columns_that_are_not_needed_may_be_absent(tmp_path, known):
    optional = tuple(set(files.TRACEV2_COLUMNS) - set(files.REQUIRED))
    busy_server().write_tracev2(tmp_path, drop=optional)
    assert schema.digest(load(tmp_path).table) == schema.digest(known[1].table)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"first_chunk_time_us": "nan"}, "not_finite"),
        ({"last_chunk_time_us": "inf"}, "not_finite"),
        ({"arrival_time_us": "-inf"}, "not_finite"),
        ({"output_tokens": "many"}, "not_finite"),
        ({"input_tokens": ""}, "not_finite"),
        ({"output_tokens": 0}, "no_output_tokens"),
        ({"input_tokens": 0}, "no_prompt_tokens"),
        ({"output_tokens": 7.5}, "not_whole_tokens"),
        ({"output_tokens": -3}, "not_whole_tokens"),
        ({"last_chunk_time_us": 1}, "ends_before_start"),
        ({"arrival_time_us": 1e12}, "ends_before_start"),
    ],
)
def test_an_impossible_request_is_rejected_with_its_line_and_the_rest_read(tmp_path, known, changed, reason):
    server = busy_server().serve(5, 20, 30, changed)
    server.write_tracev2(tmp_path)
    ingested = load(tmp_path)
    assert reasons(ingested) == [reason]
    assert ingested.rejects["line"].tolist() == [len(server.requests) + 1]
    assert f"request {len(server.requests) - 1}:" in ingested.rejects["detail"][0]
    assert schema.digest(ingested.table) == schema.digest(known[1].table)


def test_several_tokens_at_one_moment_are_rejected(tmp_path):
    server = busy_server()
    same = repr(float(server.times_us[5]))
    server.serve(5, 20, 30, {"first_chunk_time_us": same, "last_chunk_time_us": same}).write_tracev2(tmp_path)
    assert reasons(load(tmp_path)) == ["no_time_between_tokens"]


def test_a_request_of_one_token_counts_as_prefill_only(tmp_path):
    server = busy_server().serve(300, 1, 160)
    server.write_tracev2(tmp_path)
    busy_server().write_tracev2(tmp_path / "without")
    with_it, without = load(tmp_path / NAME).table, load(tmp_path / "without").table
    assert (with_it["num_decode_reqs"] == without["num_decode_reqs"]).all()
    assert with_it["num_prefill_reqs"].sum() == pytest.approx(without["num_prefill_reqs"].sum() + 1, abs=0.1)


def test_a_log_without_requests_is_left_out_with_the_reason(tmp_path):
    Server([PERIOD_US]).write_tracev2(tmp_path)
    with pytest.raises(InputError, match=r"no step in any experiment.*the log holds no request"):
        load(tmp_path)
    busy_server().write_tracev2(tmp_path, "20260102-000000-llama-2-7b-tp1-codegen")
    ingested = load(tmp_path)
    assert ingested.record["left_out"] == [{"experiment": NAME, "reason": "the log holds no request"}]
    assert set(ingested.table["workload"]) == {"codegen"}


@pytest.mark.parametrize("empty", ["", "\n"])
def test_an_empty_file_is_refused(tmp_path, empty):
    folder = busy_server(100).write_tracev2(tmp_path)
    (folder / "data.csv").write_text(empty)
    with pytest.raises(InputError, match=r"data\.csv: empty; expected a TraceV2 header"):
        load(tmp_path)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_requests_give_their_steps(tmp_path, count):
    server = Server([PERIOD_US] * 100)
    for index in range(count):
        server.serve(10 * index, 80, 40)
    server.write_tracev2(tmp_path)
    table = load(tmp_path).table
    assert len(table) == pytest.approx(79 + 10 * (count - 1), abs=1)
    assert table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.02)
    assert table["num_decode_reqs"].max() == count


def test_requests_of_one_token_alone_give_no_clock(tmp_path):
    Server([PERIOD_US] * 10).serve(1, 1).serve(5, 1).write_tracev2(tmp_path)
    with pytest.raises(InputError, match="no usable request with two or more output tokens"):
        load(tmp_path)


def test_more_than_a_tenth_failed_leaves_the_experiment_out_unless_allowed(tmp_path):
    count = len(busy_server().requests)
    busy_server().fail(count // 9 + 1).write_tracev2(tmp_path)
    busy_server().write_tracev2(tmp_path, "20260102-000000-llama-2-7b-tp1-codegen")
    ingested = load(tmp_path)
    (left_out,) = ingested.record["left_out"]
    assert left_out["experiment"] == NAME
    assert (
        left_out["reason"]
        == f"{count // 9 + 1} of {count + count // 9 + 1} requests failed, more than max_failed_ratio=0.1"
    )
    assert set(ingested.table["workload"]) == {"codegen"}
    assert entry(ingested)["failed"] == count // 9 + 1
    allowed = load(tmp_path, max_failed_ratio=0.5)
    assert set(allowed.table["workload"]) == {"codegen", "general"}


def test_up_to_a_tenth_failed_is_kept_and_counted(tmp_path, known):
    busy_server().fail(len(busy_server().requests) // 10).write_tracev2(tmp_path)
    ingested = load(tmp_path)
    assert entry(ingested)["failed"] == len(busy_server().requests) // 10
    assert schema.digest(ingested.table) == schema.digest(known[1].table)


@pytest.mark.parametrize("form", ["write_tracev2", "write_lifecycle"])
def test_all_failed_is_refused_with_the_reason(tmp_path, form):
    getattr(Server([PERIOD_US]).fail(5), form)(tmp_path)
    with pytest.raises(InputError, match="5 of 5 requests failed, more than max_failed_ratio"):
        load(tmp_path, sample_every=10)
    with pytest.raises(InputError, match="no usable request"):
        load(tmp_path, sample_every=10, max_failed_ratio=1.0)


def test_duplicate_experiments_unknown_models_and_empty_folders_are_refused(tmp_path):
    busy_server(100).write_tracev2(tmp_path / "a")
    busy_server(100).write_tracev2(tmp_path / "b")
    with pytest.raises(InputError, match="is there twice"):
        load([tmp_path / "a", tmp_path / "b"])
    busy_server(100).write_tracev2(tmp_path / "c", "20260101-000000-new-1b-tp1-general", model="acme/New-1b")
    with pytest.raises(InputError, match=r"config\.json"):
        load(tmp_path / "c")
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match="no experiment folder in it"):
        load(tmp_path / "d")
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "e")


def test_two_experiments_with_different_hardware_keep_their_own(tmp_path):
    busy_server().write_tracev2(tmp_path, hardware="A100")
    busy_server().write_tracev2(tmp_path, "20260102-000000-llama-2-70b-tp4-general")
    table = load(tmp_path).table
    assert table.groupby("model")["hardware"].unique().map(list).to_dict() == {
        "llama-2-7b": ["A100"],
        "llama-2-70b": ["H100"],
    }
    assert table.groupby("model")["tensor_parallelism"].unique().map(list).to_dict() == {
        "llama-2-7b": [1],
        "llama-2-70b": [4],
    }


def test_idle_time_between_two_bursts_is_in_no_period(tmp_path):
    server = busy_server()
    late = busy_server()
    late.times_us = late.times_us + 600e6
    folder = server.write_tracev2(tmp_path)
    other = late.write_tracev2(tmp_path / "late")
    lines = [f"late-{line}" for line in (other / "data.csv").read_text().splitlines()[1:]]
    with (folder / "data.csv").open("a") as file:
        file.write("\n".join(lines) + "\n")
    table = load(folder).table
    assert len(table) == pytest.approx(1200, abs=3)
    assert table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.01)


def test_a_request_off_the_common_clock_is_counted_in_the_record(tmp_path):
    server = Server([PERIOD_US] * 1500).serve_many(every=3, output_tokens=150)
    server.serve(300, 100, 40, {"output_tokens": 500}).write_tracev2(tmp_path)
    ingested = load(tmp_path)
    assert entry(ingested)["off_clock_intervals"] >= 1
    assert ingested.table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.01)


def test_a_flipped_byte_in_a_gzip_never_escapes_as_another_error(tmp_path):
    folder = busy_server(100).write_tracev2(tmp_path, packed=True)
    path = folder / "data.csv.gz"
    whole = path.read_bytes()
    for position in range(0, len(whole), 149):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            load(tmp_path)
        except InputError:
            continue
        except zlib.error as error:
            pytest.fail(f"byte {position}: {error}")
