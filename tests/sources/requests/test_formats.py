"""Logs of benchmark clients: recognised by what they hold, read to the server's true steps, refused by
name."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest
from bench_logs import (
    NAMES,
    PERIOD_US,
    SAMPLES,
    WRITERS,
    aiperf_records,
    genai_perf_export,
    guidellm_report,
    lines,
    small_server,
    vllm_bench_result,
    write_log,
)
from builders import Server, source

from h3.common.bounded import Bounds
from h3.common.errors import InputError
from h3.latency.recorded import from_log
from h3.sources import logs
from h3.sources.requests import files, steps
from h3.sources.requests.formats import content, table
from h3.sources.requests.steps import read_experiment

FORMS = sorted(WRITERS)


def load(root, **settings):
    return steps.load(source("requests", root, sample_every=1, max_failed_ratio=0.2, **settings))


def requests_of(folder, form):
    return files.read(form, folder / NAMES[form], 16)


def reasons(ingested):
    return list(zip(ingested.rejects["reason"], ingested.rejects["line"], strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_gives_the_steps_of_the_run_that_it_was_made_of(form):
    ingested = load(SAMPLES / form)
    steps_of_run = ingested.table.set_index("step_id")
    assert steps_of_run["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.01)
    assert ingested.record["experiments"][form]["failed"] == 1
    assert ingested.rejects.empty
    server = small_server()
    for number in steps_of_run.index[::7]:
        contexts = server.batch(number)
        assert steps_of_run.loc[number, "num_decode_reqs"] == len(contexts)
        assert steps_of_run.loc[number, "decode_kv_tokens_sum"] == sum(contexts)


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_is_what_its_helper_writes(form):
    assert (SAMPLES / form / NAMES[form]).read_text() == WRITERS[form](small_server())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_log_is_recognised_under_any_name(tmp_path, form, packed):
    folder = write_log(tmp_path, form, "", "result.json")
    data = (SAMPLES / form / NAMES[form]).read_bytes()
    (folder / "result.json").unlink()
    name = "result.json.gz" if packed else "result.json"
    (folder / name).write_bytes(gzip.compress(data) if packed else data)
    assert load(tmp_path).table.equals(load(SAMPLES / form).table)


def waves():
    """A server whose step time swings: what is known within a request shows."""
    wave = PERIOD_US * (1 + 0.3 * np.sin(np.arange(400) / 400 * 2 * np.pi * 4))
    return Server(wave).serve(0, 400).serve(0, 400).serve(0, 390)


@pytest.mark.parametrize("form", ["vllm-bench", "genai-perf", "aiperf"])
def test_a_time_for_each_token_pins_the_clock_within_a_request(tmp_path, form):
    write_log(tmp_path, form, WRITERS[form](waves()))
    table_of_run = load(tmp_path).table
    truth = waves().times_us[table_of_run["step_id"]] - waves().times_us[0]
    started = table_of_run["start_us"] - table_of_run["start_us"].iloc[0]
    assert np.abs(started - truth + truth[0]).max() < 0.5 * PERIOD_US


def test_a_request_has_a_time_a_token_only_where_there_is_a_chunk_a_token(tmp_path):
    result = vllm_bench_result(small_server())
    first, second, *_ = result["itls"][3]
    result["itls"][3][:2] = [first + second]
    folder = write_log(tmp_path, "vllm-bench", json.dumps(result))
    requests = requests_of(folder, "vllm-bench").requests
    assert requests["token_times_us"].isna().sum() == 1
    whole = requests_of(SAMPLES / "vllm-bench", "vllm-bench").requests
    assert requests["last_us"].to_numpy() == pytest.approx(whole["last_us"].to_numpy())


def test_recorded_hits_of_the_prefix_cache_go_before_the_assumption():
    for form in ("guidellm", "aiperf"):
        requests = requests_of(SAMPLES / form, form).requests
        assert requests["cached_tokens"].dropna().tolist() == [16]
        logged = read_experiment(SAMPLES / form, source())
        recorded = from_log(*logged, source("requests", SAMPLES, prefill_tokens="uncached").assume)
        assert sorted(recorded.requests["cached_tokens"])[-1] == 16
        assert recorded.prefix_hits.startswith("recorded for")


def test_the_servers_counts_of_tokens_go_before_the_clients(tmp_path):
    records = aiperf_records(small_server())
    record = records[1]["metrics"]
    for name, client in (("prompt", "input_sequence"), ("completion", "output_sequence")):
        count = record[f"{client}_length"]["value"]
        record[f"usage_{name}_tokens"] = {"value": count, "unit": "tokens"}
        record[f"{client}_length"]["value"] = count + 5
    requests = requests_of(write_log(tmp_path, "aiperf", lines(records)), "aiperf").requests
    whole = requests_of(SAMPLES / "aiperf", "aiperf").requests
    for column in ("prompt_tokens", "output_tokens"):
        assert requests[column].tolist() == whole[column].tolist()


def test_usage_of_a_server_tells_hits_of_the_prefix_cache(tmp_path):
    export = genai_perf_export(small_server())
    for request in export["experiments"][0]["requests"][:-1]:
        outputs = request["response_outputs"]
        event = json.loads(outputs[-2]["response"].removeprefix("data: "))
        event["usage"]["prompt_tokens_details"] = {"cached_tokens": 32}
        outputs[-2]["response"] = f"data: {json.dumps(event)}\n\n"
    folder = write_log(tmp_path, "genai-perf", json.dumps(export))
    assert set(requests_of(folder, "genai-perf").requests["cached_tokens"]) == {32}


def test_events_that_are_spread_over_two_responses_are_joined(tmp_path):
    export = genai_perf_export(small_server())
    for request in export["experiments"][0]["requests"][:-1]:
        one, other = request["response_outputs"][1:3]
        one["response"], cut = one["response"][:20], one["response"][20:]
        other["response"] = cut + other["response"]
    folder = write_log(tmp_path, "genai-perf", json.dumps(export))
    requests = requests_of(folder, "genai-perf").requests
    whole = requests_of(SAMPLES / "genai-perf", "genai-perf").requests
    assert requests["last_us"].tolist() == whole["last_us"].tolist()
    assert requests["token_times_us"].isna().all()  # two tokens at one time


def test_a_request_whose_server_answered_with_an_error_has_failed(tmp_path):
    export = genai_perf_export(small_server())
    export["experiments"][0]["requests"][1]["response_outputs"][5]["response"] = 'data: {"error": "full"}\n\n'
    log = requests_of(write_log(tmp_path, "genai-perf", json.dumps(export)), "genai-perf")
    assert log.failed == 2
    assert log.rejects.empty


def test_reports_of_guidellm_before_schemas_had_numbers_are_read(tmp_path):
    report = guidellm_report(small_server())
    del report["metadata"], report["args"]
    (benchmark,) = report["benchmarks"]
    del benchmark["metrics"]
    for request in benchmark["requests"]["successful"]:
        timings = request.pop("info")["timings"]
        request |= {
            "start_time": timings["request_start"],
            "first_token_time": timings["first_token_iteration"],
            "last_token_time": timings["last_token_iteration"],
        }
    write_log(tmp_path, "guidellm", json.dumps(report))
    assert load(tmp_path).table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.01)


def test_requests_that_guidellm_did_not_list_but_that_failed_are_counted(tmp_path):
    report = guidellm_report(small_server())
    report["benchmarks"][0]["metrics"]["request_totals"] |= {"errored": 2, "incomplete": 1}
    assert requests_of(write_log(tmp_path, "guidellm", json.dumps(report)), "guidellm").failed == 3


def test_logs_reads_them_beside_traces_and_other_logs(tmp_path):
    for form in FORMS:
        shutil.copytree(SAMPLES / form, tmp_path / form)
    small_server().write_tracev2(tmp_path)
    ingested = logs.load(source("logs", tmp_path, max_failed_ratio=0.2))
    assert set(ingested.record["experiments"]) == {*FORMS, "20260101-000000-llama-2-7b-tp1-general"}


def test_files_that_are_no_logs_may_lie_beside_a_log(tmp_path):
    shutil.copytree(SAMPLES / "aiperf", tmp_path / "aiperf")
    for name in ("inputs.json", "generation_config.json", ".hidden.json"):
        (tmp_path / "aiperf" / name).write_text('{"data": [], "top_p": 0.9}')
    (tmp_path / "aiperf" / "broken.json").write_text("{")
    assert load(tmp_path).table.equals(load(SAMPLES / "aiperf").table)


# Bad input


def refused(tmp_path, form, text, says):
    folder = write_log(tmp_path, form, text)
    with pytest.raises(InputError, match=says) as caught:
        load(tmp_path)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def without(mapping, *names):
    return json.dumps({key: value for key, value in mapping.items() if key not in names})


def test_a_vllm_result_without_details_says_to_run_again_with_them(tmp_path):
    detailed = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")
    text = without(vllm_bench_result(small_server()), *detailed)
    refused(tmp_path, "vllm-bench", text, "no list input_lens.* again with --save-detailed")


def test_a_vllm_result_without_start_times_says_what_is_needed(tmp_path):
    text = without(vllm_bench_result(small_server()), "start_times")
    refused(tmp_path, "vllm-bench", text, r"no list start_times, .* unknown when requests arrived; run again")


def test_a_vllm_result_with_lists_of_other_lengths_is_refused(tmp_path):
    result = vllm_bench_result(small_server())
    result["ttfts"].pop()
    refused(tmp_path, "vllm-bench", json.dumps(result), r"lists of .*ttfts \d+.* expected a value a request")


def test_several_vllm_runs_in_a_file_are_refused(tmp_path):
    text = json.dumps(vllm_bench_result(small_server()))
    refused(tmp_path, "vllm-bench", f"{text}\n{text}", r"holds 2 runs \(--append-result\); expected one")


@pytest.mark.parametrize("schema", [0, 3, "1", None])
def test_an_unknown_schema_of_guidellm_is_refused(tmp_path, schema):
    report = guidellm_report(small_server())
    report["metadata"]["version"] = schema
    says = f"GuideLLM report of schema {schema!r}; expected 1 or 2"
    refused(tmp_path, "guidellm", json.dumps(report), says)


def test_a_guidellm_report_that_lists_some_or_no_requests_is_refused(tmp_path):
    report = guidellm_report(small_server())
    requests = report["benchmarks"][0]["requests"]
    requests["successful"] = requests["successful"][:5]
    refused(tmp_path, "guidellm", json.dumps(report), r"benchmark 1 lists 5 of \d+ successful requests; run")
    del report["benchmarks"][0]["requests"]
    refused(tmp_path, "guidellm", json.dumps(report), r"benchmark 1 lists no requests\.successful; run")


def test_an_export_of_perf_analyzer_from_another_server_is_refused(tmp_path):
    export = genai_perf_export(small_server())
    text = json.dumps(export | {"service_kind": "triton"})
    refused(tmp_path, "genai-perf", text, r"service_kind='triton' \(perf_analyzer '2\.59\.0'\); expected 'op")
    text = json.dumps(export | {"experiments": [{"experiment": {}}]})
    refused(tmp_path, "genai-perf", text, "experiment 1 lists no requests")


def test_an_export_without_usage_says_how_to_get_it(tmp_path):
    export = genai_perf_export(small_server())
    for request in export["experiments"][0]["requests"]:
        del request["response_timestamps"][-2:], request["response_outputs"][-2:]
    refused(tmp_path, "genai-perf", json.dumps(export), "no usage in any response.*include_usage")


def test_a_request_without_usage_among_others_is_rejected(tmp_path):
    export = genai_perf_export(small_server())
    output = export["experiments"][0]["requests"][1]["response_outputs"][-2]
    output["response"] = 'data: {"choices": [], "usage": null}\n\n'
    write_log(tmp_path, "genai-perf", json.dumps(export))
    assert reasons(load(tmp_path)) == [("broken_entry", 2)]


def test_records_of_aiperf_without_the_needed_metrics_are_refused(tmp_path):
    records = aiperf_records(small_server())
    for record in records:
        record["metrics"].pop("time_to_first_token", None)
    says = "no record has the metric time_to_first_token .found input_sequence_length, .*--streaming"
    refused(tmp_path, "aiperf", lines(records), says)


@pytest.mark.parametrize("text", ["{}", "[]", "5", '{"latencies": [1, 2]}', '{"a": 1}\n{"a": 2}\n'])
def test_a_json_file_of_no_known_format_is_refused_with_the_known_ones(tmp_path, text):
    refused(tmp_path, "vllm-bench", text, "a JSON file of no known format; expected one of vllm bench serve")
    for form in table.FORMATS:
        with pytest.raises(InputError) as caught:
            load(tmp_path)
        assert form.title in str(caught.value)


@pytest.mark.parametrize("text", ["", "words", "{", "[" * 100_000, "\n\n"])
def test_a_file_that_is_not_json_is_refused(tmp_path, text):
    refused(tmp_path, "vllm-bench", text, "not JSON")


def test_two_logs_in_a_folder_are_refused_with_both(tmp_path):
    folder = write_log(tmp_path, "aiperf", WRITERS["aiperf"](small_server()))
    (folder / "benchmarks.json").write_text(WRITERS["guidellm"](small_server()))
    says = r"2 logs, benchmarks\.json \(GuideLLM .*\) and profile_export\.jsonl \(AIPerf .*\); expected one"
    with pytest.raises(InputError, match=says):
        load(tmp_path)


def test_no_log_among_several_files_is_refused_with_their_names(tmp_path):
    folder = write_log(tmp_path, "aiperf", "{}", "inputs.json")
    (folder / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"no log among inputs\.json, summary\.json; expected one of vllm"):
        load(tmp_path)


def test_json_files_without_a_configuration_make_no_experiment(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text("{}")
    with pytest.raises(InputError, match="no experiment folder in it"):
        load(tmp_path)


def test_a_file_that_is_too_large_is_refused_packed_or_not(tmp_path):
    for name, data in (("a.json", b"[" + b" " * 5000), ("a.json.gz", gzip.compress(b" " * 5000))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="more than 4000 bytes unpacked; expected less, or bounds"):
            content.load(tmp_path / name, Bounds(max_bytes=4000))


def broken_vllm():
    result = vllm_bench_result(small_server())
    result["itls"][1], result["ttfts"][2], result["input_lens"][4] = "soon", None, [1]
    result["ttfts"][3] = float("nan")
    return json.dumps(result)


def broken_guidellm():
    report = guidellm_report(small_server())
    good = report["benchmarks"][0]["requests"]["successful"]
    good[1], good[2]["prompt_tokens"], good[4]["info"] = "words", None, 5
    good[3]["info"]["timings"]["first_token_iteration"] = None
    return json.dumps(report)


def broken_genai_perf():
    export = genai_perf_export(small_server())
    requests = export["experiments"][0]["requests"]
    requests[1], requests[2]["response_outputs"][4]["response"] = None, "data: {"
    requests[3]["timestamp"] = float("nan")
    requests[4]["response_timestamps"].pop()
    return json.dumps(export)


def broken_aiperf():
    records = aiperf_records(small_server())
    records[1], records[2]["metadata"] = 7, None
    records[3]["metrics"]["output_sequence_length"]["value"] = float("nan")
    records[4]["metrics"]["request_latency"]["unit"] = "fortnights"
    return lines(records)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("vllm-bench", broken_vllm()),
        ("guidellm", broken_guidellm()),
        ("genai-perf", broken_genai_perf()),
        ("aiperf", broken_aiperf()),
    ],
)
def test_broken_entries_are_rejected_with_file_and_number_and_the_rest_read(tmp_path, form, text):
    folder = write_log(tmp_path, form, text)
    ingested = load(tmp_path)
    assert sorted(reasons(ingested)) == [
        ("broken_entry", 2),
        ("broken_entry", 3),
        ("broken_entry", 5),
        ("not_finite", 4),
    ]
    assert set(ingested.rejects["file"]) == {str(folder / NAMES[form])}
    assert ingested.table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.01)


def test_a_broken_line_is_rejected_with_its_number_and_the_rest_read(tmp_path):
    good = WRITERS["aiperf"](small_server()).splitlines()
    write_log(tmp_path, "aiperf", "\n".join([*good[:3], '{"metadata": {', "", *good[3:-1], good[-1][:40]]))
    assert reasons(load(tmp_path)) == [("broken_line", 4), ("broken_line", len(good) + 2)]
