"""Logs of benchmark clients as their writers lay them out, of a server whose steps are known.

text = WRITERS["guidellm"](server)              # the file's text
write_samples(Path("tests/sources/requests/samples"))

Each sample folder holds what `python tests/bench_logs.py` writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from builders import Request, Server

PERIOD_US = 20_000.0
QUEUE_S = 0.03
EPOCH_S = 1_770_000_000
SAMPLES = Path(__file__).parent / "sources" / "requests" / "samples"
CONFIG = {
    "model": "meta-llama/Llama-2-7b-hf",
    "tensor_parallelism": 1,
    "max_num_seqs": 128,
    "max_num_batched_tokens": 2048,
}


def small_server() -> Server:
    """The server of the samples: 120 steps of 20 ms, one request that failed."""
    server = Server([PERIOD_US] * 120).serve(0, 120, 50).serve_at_random(9, seed=2, tokens=(10, 40))
    return server.fail(1)


def times_s(server: Server, request: Request) -> np.ndarray:
    """When each token of a request came, s."""
    return server.times_us[request.first_step : request.last_step + 1] / 1e6


def vllm_bench_result(server: Server) -> dict[str, Any]:
    """The result of `vllm bench serve --save-result --save-detailed` on the completions endpoint."""
    failed = server.error_lines
    times = [times_s(server, request) for request in server.requests]
    done = len(times)
    return {
        "date": "20260210-120000",
        "endpoint_type": "vllm",
        "backend": "vllm",
        "label": None,
        "model_id": "meta-llama/Llama-2-7b-hf",
        "tokenizer_id": "meta-llama/Llama-2-7b-hf",
        "num_prompts": done + failed,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": None,
        "duration": 2.5,
        "completed": done,
        "failed": failed,
        "total_input_tokens": sum(request.prompt_tokens for request in server.requests),
        "total_output_tokens": sum(request.output_tokens for request in server.requests),
        "request_throughput": done / 2.5,
        "request_goodput": None,
        "input_lens": [request.prompt_tokens for request in server.requests] + [100] * failed,
        "output_lens": [request.output_tokens for request in server.requests] + [0] * failed,
        "ttfts": [QUEUE_S] * done + [0.0] * failed,
        "itls": [np.diff(t).round(7).tolist() for t in times] + [[] for _ in range(failed)],
        "start_times": [round(t[0] - QUEUE_S, 7) for t in times] + [1.0] * failed,
        "generated_texts": [""] * (done + failed),
        "errors": [""] * done + ["gave up"] * failed,
        "mean_ttft_ms": 1e3 * QUEUE_S,
    }


def guidellm_report(server: Server) -> dict[str, Any]:
    """A GuideLLM report of schema 1 with one benchmark, whose last request has hits of the prefix cache."""
    good = [_guidellm_request(server, number) for number in range(len(server.requests))]
    failed = [
        {**good[0], "request_id": f"failed-{n}", "output_tokens": None} for n in range(server.error_lines)
    ]
    totals = {
        "successful": len(good),
        "incomplete": 0,
        "errored": len(failed),
        "total": len(good) + len(failed),
    }
    return {
        "metadata": {"version": 1, "guidellm_version": "0.5.0"},
        "args": {"profile": "concurrent", "rate": [16]},
        "benchmarks": [
            {
                "type_": "generative_benchmark",
                "metrics": {"request_totals": totals},
                "requests": {"successful": good, "incomplete": [], "errored": failed, "total": None},
            }
        ],
    }


def _guidellm_request(server: Server, number: int) -> dict[str, Any]:
    request = server.requests[number]
    first, *_, last = EPOCH_S + times_s(server, request).repeat(2)
    timings = {
        "resolve_start": first - QUEUE_S,
        "request_start": first - QUEUE_S,
        "first_token_iteration": first,
        "last_token_iteration": last,
        "token_iterations": request.output_tokens,
        "request_end": last,
        "resolve_end": last,
    }
    return {
        "type_": "generative_request_stats",
        "request_id": f"request-{number}",
        "info": {"request_id": f"request-{number}", "status": "completed", "timings": timings, "error": None},
        "input_metrics": {"text_tokens": request.prompt_tokens},
        "output_metrics": {"text_tokens": request.output_tokens},
        "prompt_tokens": request.prompt_tokens,
        "cached_tokens": 16 if number == len(server.requests) - 1 else None,
        "output_tokens": request.output_tokens,
    }


def genai_perf_export(server: Server) -> dict[str, Any]:
    """What perf_analyzer exports for genai-perf from a chat endpoint that was asked for its usage."""
    requests = [_genai_perf_request(server, request) for request in server.requests]
    failed = {"timestamp": EPOCH_S * 10**9, "request_inputs": {"payload": "{}"}}
    failed |= {"response_timestamps": [], "response_outputs": []}
    return {
        "experiments": [
            {
                "experiment": {"mode": "concurrency", "value": 16},
                "requests": requests + [failed] * server.error_lines,
                "window_boundaries": [],
            }
        ],
        "version": "2.59.0",
        "service_kind": "openai",
        "endpoint": "v1/chat/completions",
    }


def _genai_perf_request(server: Server, request: Request) -> dict[str, Any]:
    arrived = [_ns(time) for time in times_s(server, request)]
    said: list[dict[str, Any]] = [{"content": "a"} for _ in arrived]
    chunks = [{"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}]
    chunks += [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in said]
    chunks[-1]["choices"][0]["finish_reason"] = "length"
    usage = {"prompt_tokens": request.prompt_tokens, "completion_tokens": request.output_tokens}
    texts = [json.dumps(chunk) for chunk in [*chunks, {"choices": [], "usage": usage}]] + ["[DONE]"]
    return {
        "timestamp": arrived[0] - round(QUEUE_S * 1e9),
        "request_inputs": {"payload": "{}"},
        "response_timestamps": [arrived[0] - 50_000, *arrived, arrived[-1] + 50_000, arrived[-1] + 60_000],
        "response_outputs": [{"response": f"data: {text}\n\n"} for text in texts],
    }


def aiperf_records(server: Server) -> list[dict[str, Any]]:
    """AIPerf's records of requests that streamed; the last has hits of the prefix cache."""
    records = [_aiperf_record(server, number) for number in range(len(server.requests))]
    records[-1]["metrics"]["usage_prompt_cache_read_tokens"] = {"value": 16, "unit": "tokens"}
    error = {"code": 499, "type": "RequestCancellationError", "message": "gave up"}
    failed = {**records[0], "metrics": {"error_isl": {"value": 100, "unit": "tokens"}}, "error": error}
    return records + [failed] * server.error_lines


def _aiperf_record(server: Server, number: int) -> dict[str, Any]:
    request = server.requests[number]
    times = times_s(server, request)
    start = _ns(times[0] - QUEUE_S)
    values = {
        "input_sequence_length": (request.prompt_tokens, "tokens"),
        "output_sequence_length": (request.output_tokens, "tokens"),
        "time_to_first_token": (1e3 * QUEUE_S, "ms"),
        "request_latency": (1e3 * (times[-1] - times[0] + QUEUE_S), "ms"),
        "inter_chunk_latency": ((1e3 * np.diff(times)).round(6).tolist(), "ms"),
    }
    return {
        "metadata": {
            "session_num": number,
            "x_request_id": f"request-{number}",
            "turn_index": 0,
            "request_start_ns": start,
            "request_end_ns": _ns(times[-1]),
            "benchmark_phase": "profiling",
            "was_cancelled": False,
        },
        "metrics": {name: {"value": value, "unit": unit} for name, (value, unit) in values.items()},
        "error": None,
    }


def _ns(time_s: float) -> int:
    return EPOCH_S * 10**9 + round(float(time_s) * 1e9)


def lines(records: list[dict[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


WRITERS = {
    "vllm-bench": lambda server: json.dumps(vllm_bench_result(server)),
    "guidellm": lambda server: json.dumps(guidellm_report(server)),
    "genai-perf": lambda server: json.dumps(genai_perf_export(server)),
    "aiperf": lambda server: lines(aiperf_records(server)),
}
# The names that the writers give their files.
NAMES = {
    "vllm-bench": "vllm-infqps-Llama-2-7b-hf-20260210-120000.json",
    "guidellm": "benchmarks.json",
    "genai-perf": "profile_export.json",
    "aiperf": "profile_export.jsonl",
}


def write_log(root: Path, form: str, text: str, name: str | None = None) -> Path:
    """An experiment folder below root with a log of a format; name: of the file, else its writer's."""
    folder = root / form
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exp-config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (folder / (name or NAMES[form])).write_text(text)
    return folder


def write_samples(root: Path) -> None:
    """The sample folders."""
    for form, writer in WRITERS.items():
        write_log(root, form, writer(small_server()))


if __name__ == "__main__":
    write_samples(SAMPLES)
