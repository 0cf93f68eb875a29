"""Builders of what h3 reads: step tables, and folders of request logs from a simulated server whose step
clock is known.

table = Steps(seed=1).run("llama-2-7b", rows=50).run("llama-2-70b", rows=50, tp=4).timed(truth_us).table() one
= step(decode=[600, 700], prefill=[(16, 512)])                  # a row from its requests: KV tokens, (new,
cached)

server = Server(periods_us=[20_000] * 500).serve(first_step=3, output_tokens=50, prompt_tokens=90)
folder = server.write_tracev2(tmp_path / "runs")                    # or write_lifecycle: inference-perf
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml

from h3.bundle import json_file
from h3.bundle.uncertainty import Evidence
from h3.common.config import Assumptions, SourceConfig
from h3.evaluation.result import FoldResult
from h3.server.overheads import Overheads
from h3.sources.requests import clock
from h3.sources.requests.files import TRACEV2_COLUMNS
from h3.steps import catalog, schema

if TYPE_CHECKING:
    from h3.tracking.registry import Registry

EVIDENCE = Evidence.none("for tests")
CONSTANTS = Overheads(queueing_us=9300.0, post_decode_us=1850.0)  # of a request, without steps
USUAL_TP = {"llama-2-7b": 1, "llama-2-70b": 4, "codellama-34b": 2, "mixtral-8x7b-v0-1": 2}
LLAMA_CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
HUGGINGFACE = {
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-70b": "meta-llama/Llama-2-70b-hf",
    "codellama-34b": "codellama/CodeLlama-34b-Instruct-hf",
    "mixtral-8x7b-v0-1": "mistralai/Mixtral-8x7B-v0.1",
}


def source(name: str = "requests", path: Path | str | list[Path] | None = None, **settings) -> SourceConfig:
    """A source's configuration; keywords are its settings, or assumptions."""
    assumed = {key: settings.pop(key) for key in list(settings) if key in Assumptions.model_fields}
    paths = [str(each) for each in path] if isinstance(path, list) else None if path is None else str(path)
    return SourceConfig(name=name, path=paths, assume=Assumptions(**assumed), **settings)


def simulated_source(
    scale: float = 1.0, workers: int | None = None, cache_dir: Path | None = None
) -> SourceConfig:
    """The simulated source, kept nowhere unless a folder is given."""
    kept = None if cache_dir is None else str(cache_dir)
    return SourceConfig(name="simulated", scale=scale, workers=workers, cache_dir=kept)


def fold_result(fold: str = "lomo_mixtral", **changes) -> FoldResult:
    """The result of a fold that held Mixtral out; keywords replace its fields."""
    usual = {
        "kind": fold.split("_")[0],
        "holdout": "mixtral-8x7b-v0-1",
        "model": "xgboost_residual",
        "n_test": 10,
        "mape": 5.0,
        "mape_interval": (4.0, 6.0),
        "data_digest": "d" * 32,
    }
    return FoldResult.model_validate({"fold": fold, **usual, **changes})


def other_physics(folder: Path) -> Path:
    """The golden bundle as a version of h3 with another constant would have written it."""
    shutil.copytree(Path(__file__).parents[1] / "go" / "h3bundle" / "testdata" / "bundle", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["constants"]["gemm_efficiency"] = 0.7
    (folder / "manifest.json").write_text(json.dumps(manifest))
    sign_manifest(folder)
    return folder


def edit_provenance(folder: Path, **said: str) -> None:
    """Say more in the provenance of a bundle, so that it is another one."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["provenance"].update(said)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    sign_manifest(folder)


def sign_manifest(folder: Path) -> None:
    """Make the digest of a bundle's manifest right after an edit, so that what lies behind it is tested."""
    digest = json_file.sha256((folder / "manifest.json").read_bytes())
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def setup_columns(model: str, tp: int | None, workload: str) -> dict:
    """Columns that are the same for every row of an experiment."""
    tp = tp or USUAL_TP.get(model, 1)
    return {
        "experiment": f"20260101-000000-{model}-tp{tp}-{workload}",
        "model": model,
        "workload": workload,
        "log": "simulated",
        "clock": 0,
        "hardware": "H100",
        "tensor_parallelism": tp,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 2048,
        "block_size_tokens": 16,
        "truncated_sampling": 0.0,
        **catalog.MODELS.get(model, catalog.MODELS["llama-2-7b"]).columns(),
    }


def composition(decode: list[int], prefill: list[tuple[int, int]]) -> dict:
    """Composition columns counted request by request: KV tokens of the decoding, (new, cached) tokens of the
    prefilling.
    """
    pairs = 0
    for new, cached in prefill:
        for token in range(1, new + 1):
            pairs += cached + token
    return {
        "num_prefill_reqs": len(prefill),
        "num_decode_reqs": len(decode),
        "prefill_tokens": sum(new for new, _ in prefill),
        "decode_tokens": len(decode),
        "decode_kv_tokens_sum": sum(decode),
        "decode_kv_tokens_mean": sum(decode) / len(decode) if decode else 0.0,
        "decode_kv_tokens_max": max(decode, default=0),
        "prefill_kv_tokens_sum": sum(cached for _, cached in prefill),
        "prefill_attended_tokens": pairs,
    }


def step(
    model: str = "llama-2-7b",
    tp: int | None = None,
    decode: list[int] | None = None,
    prefill: list[tuple[int, int]] | None = None,
    **columns,
) -> pd.DataFrame:
    """A valid step table of one row; keywords replace its columns."""
    row = {
        **setup_columns(model, tp, "general"),
        "step_id": 0,
        "start_us": 0.0,
        **composition(decode or [], prefill or []),
        "period_us": 20_000.0,
        "gap_steps": 1,
        "duration_us": 70.0,
        **columns,
    }
    return schema.check(pd.DataFrame([row]), "step")


def steps(*rows: pd.DataFrame) -> pd.DataFrame:
    """Rows under one another."""
    return pd.concat(rows, ignore_index=True)


@dataclass
class Steps:
    """Collects experiments; every row gets a batch drawn from `seed` unless `run` replaces its columns."""

    seed: int = 0
    parts: list[pd.DataFrame] = field(default_factory=list)

    def run(
        self, model: str, rows: int = 40, tp: int | None = None, workload: str = "general", **columns
    ) -> Steps:
        """An experiment of so many steps; keywords are columns (a value or one a row)."""
        rng = np.random.default_rng([self.seed, len(self.parts)])
        parts = []
        for number in range(rows):
            decode = rng.integers(100, 1500, size=rng.integers(1, 128)).tolist()
            prefill = (
                [(int(rng.integers(1, 600)), int(rng.integers(0, 60)) * 16)] if rng.random() < 0.3 else []
            )
            parts.append({"step_id": 10 * number, "start_us": 2e5 * number, **composition(decode, prefill)})
        frame = pd.DataFrame(parts).assign(**setup_columns(model, tp, workload) | _state(rng, rows) | columns)
        self.parts.append(frame)
        return self

    def timed(self, truth_us: Callable[[pd.DataFrame], np.ndarray], noise: float = 0.0) -> Steps:
        """Periods from a function of the table, times exp(noise x normal)."""
        rng = np.random.default_rng([self.seed, 999])
        for index, part in enumerate(self.parts):
            factor = np.exp(noise * rng.standard_normal(len(part)))
            self.parts[index] = part.assign(
                period_us=truth_us(schema.check(part.assign(period_us=1.0), "steps")) * factor
            )
        return self

    def table(self) -> pd.DataFrame:
        return schema.check(pd.concat(self.parts, ignore_index=True), "steps")


def _state(rng: np.random.Generator, rows: int) -> dict:
    free = rng.integers(1000, 9000, rows).astype(float)
    return {
        "running_reqs": rng.integers(1, 128, rows),
        "waiting_reqs": rng.integers(0, 5, rows),
        "kv_blocks_total": 10_000.0,
        "kv_blocks_free": free,
        "kv_usage_ratio": 1 - free / 10_000,
        "num_finished": 0.0,
        "num_preempted": 0.0,
        "period_us": rng.uniform(8_000, 40_000, rows),
        "gap_steps": rng.integers(1, 20, rows),
        "duration_us": rng.uniform(50, 500, rows),
    }


@dataclass(frozen=True)
class Request:
    """A request whose first token comes at the end of step `first_step - 1`, each next one a step later."""

    first_step: int
    output_tokens: int
    prompt_tokens: int = 100

    @property
    def last_step(self) -> int:
        return self.first_step + self.output_tokens - 1


@dataclass
class Server:
    """A server that makes steps of known periods, and the requests that it served."""

    periods_us: np.ndarray
    start_us: float = 1e6
    requests: list[Request] = field(default_factory=list)
    changes: dict[int, dict] = field(default_factory=dict)
    error_lines: int = 0

    def __post_init__(self):
        self.periods_us = np.asarray(self.periods_us, dtype=float)
        self.times_us = self.start_us + np.concatenate([[0.0], np.cumsum(self.periods_us)])

    @property
    def step_count(self) -> int:
        return len(self.periods_us)

    def serve(
        self, first_step: int, output_tokens: int, prompt_tokens: int = 100, logged: dict | None = None
    ) -> Server:
        """Serve a request; `logged` replaces cells of its line in the log (TraceV2 names) or of its info
        (inference-perf).
        """
        request = Request(first_step, output_tokens, prompt_tokens)
        assert request.last_step <= self.step_count, "the server makes too few steps for this request"
        if logged:
            self.changes[len(self.requests)] = logged
        self.requests.append(request)
        return self

    def serve_many(self, every: int, output_tokens: int, prompt_tokens: int = 100, first: int = 1) -> Server:
        """A request that starts every so many steps, as long as the server runs."""
        for first_step in range(first, self.step_count - output_tokens + 2, every):
            self.serve(first_step, output_tokens, prompt_tokens)
        return self

    def serve_at_random(self, count: int, seed: int = 0, tokens: tuple[int, int] = (20, 120)) -> Server:
        """Requests of random length, start and prompt; the whole run is covered."""
        rng = np.random.default_rng(seed)
        for _ in range(count):
            output = int(min(rng.integers(*tokens), self.step_count))
            self.serve(int(rng.integers(0, self.step_count - output + 2)), output, int(rng.integers(1, 900)))
        length = min(tokens[1], self.step_count)
        for first_step in range(0, self.step_count - length + 2, length // 2):
            self.serve(first_step, length)
        return self

    def fail(self, count: int) -> Server:
        """So many more requests that failed."""
        self.error_lines += count
        return self

    def first_us(self) -> np.ndarray:
        return self.times_us[[request.first_step for request in self.requests]]

    def last_us(self) -> np.ndarray:
        return self.times_us[[request.last_step for request in self.requests]]

    def intervals(self) -> clock.Intervals:
        """What the step clock is recovered from."""
        long = [request for request in self.requests if request.output_tokens > 1]
        only = replace(self, requests=long)
        return clock.Intervals(
            only.first_us(), only.last_us(), np.array([request.output_tokens - 1.0 for request in long])
        )

    def batch(self, number: int) -> list[int]:
        """KV tokens of each request that decodes in step `number`, counted by playing every request token by
        token.
        """
        contexts = []
        for request in self.requests:
            kv_tokens, at = request.prompt_tokens, request.first_step
            while at < request.last_step:
                kv_tokens += 1
                if at == number:
                    contexts.append(kv_tokens)
                at += 1
        return contexts

    def write_tracev2(
        self,
        root: Path,
        name: str = "20260101-000000-llama-2-7b-tp1-general",
        packed: bool = False,
        drop: tuple[str, ...] = (),
        extra: dict[str, str] | None = None,
        **config,
    ) -> Path:
        """A TraceV2 experiment folder below root; drop, extra: columns left out of and added to the log;
        keywords: exp-config.
        """
        folder = _folder(root, name, config)
        (folder / "header.yaml").write_text("trace_version: 3\ntime_unit: us\nmode: real\n")
        columns = [column for column in TRACEV2_COLUMNS if column not in drop] + list(extra or {})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for cells in self._tracev2_rows():
            writer.writerow([{**cells, **(extra or {})}[column] for column in columns])
        content = text.getvalue().encode()
        if packed:
            (folder / "data.csv.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / "data.csv").write_bytes(content)
        return folder

    def _tracev2_rows(self):
        empty = dict.fromkeys(TRACEV2_COLUMNS, "") | {
            "prefix_length": 0,
            "server_input_tokens": 0,
            "send_time_us": 0,
        }
        for index, request in enumerate(self.requests):
            first, last = self.times_us[request.first_step], self.times_us[request.last_step]
            yield (
                empty
                | {
                    "request_id": index,
                    "input_tokens": request.prompt_tokens,
                    "output_tokens": request.output_tokens,
                    "arrival_time_us": repr(max(0.0, float(first) - 30_000.0)),
                    "first_chunk_time_us": repr(float(first)),
                    "last_chunk_time_us": repr(float(last)),
                    "num_chunks": request.output_tokens,
                    "status": "ok",
                }
                | self.changes.get(index, {})
            )
        for index in range(self.error_lines):
            yield empty | {
                "request_id": f"failed-{index}",
                "input_tokens": 100,
                "output_tokens": 0,
                "arrival_time_us": 0,
                "first_chunk_time_us": 0,
                "last_chunk_time_us": 0,
                "status": "timeout",
                "error_message": "gave up",
            }

    def write_lifecycle(
        self,
        root: Path,
        name: str = "20260101-000000-llama-2-7b-tp1-general",
        token_times: bool = True,
        below: str = "",
        **config,
    ) -> Path:
        """An inference-perf experiment folder below root; token_times: log every token's time, else first and
        last; below: subfolder.
        """
        folder = _folder(root, name, config)
        entries = []
        for index, request in enumerate(self.requests):
            times = self.times_us[request.first_step : request.last_step + 1] / 1e6
            info = {
                "input_tokens": request.prompt_tokens,
                "output_tokens": request.output_tokens,
                "output_token_times": times.tolist() if token_times else [times[0], times[-1]],
            } | self.changes.get(index, {})
            entries.append(
                {
                    "start_time": float(times[0] - 0.03),
                    "end_time": float(times[-1]),
                    "info": info,
                    "error": None,
                }
            )
        entries += [
            {
                "start_time": 1.0,
                "end_time": 2.0,
                "info": {"input_tokens": 9, "output_tokens": 0},
                "error": {"error_msg": "gave up"},
            }
            for _ in range(self.error_lines)
        ]
        path = folder / below / "per_request_lifecycle_metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entries))
        return folder


def _folder(root: Path, name: str, config: dict) -> Path:
    """An experiment folder with its exp-config.yaml; the configuration's None leaves a key out."""
    folder = root / name
    folder.mkdir(parents=True)
    parsed = catalog.parse_experiment(name) or {"model": "llama-2-7b", "tp": 1}
    usual = {
        "model": HUGGINGFACE.get(catalog.model_name(parsed["model"]), parsed["model"]),
        "tensor_parallelism": int(parsed["tp"]),
        "max_model_len": 4096,
        "max_num_batched_tokens": 2048,
        "max_num_seqs": 128,
    } | config
    (folder / "exp-config.yaml").write_text(
        yaml.safe_dump({key: value for key, value in usual.items() if value is not None})
    )
    return folder


def empty_registry(folder: Path) -> Registry:
    """A registry in a folder that also keeps its artifacts, wherever the tests run."""
    from mlflow import MlflowClient  # slow to import, and few tests need it

    from h3.common.config import TrackingConfig
    from h3.tracking import registry

    tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}")
    MlflowClient(tracking.uri).create_experiment(
        tracking.experiment, artifact_location=(folder / "artifacts").as_uri()
    )
    return registry.open_registry(tracking)


def keep(store, run_id: str, **contents: dict) -> None:
    """Give a run JSON or YAML artifacts by name."""
    for name, content in contents.items():
        store.client.log_dict(run_id, content, name)
