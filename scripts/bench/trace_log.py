"""A synthetic step trace as OpenTelemetry's collector writes it, of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

KEYS = (
    "step.id",
    "step.ts_start_ns",
    "step.ts_end_ns",
    "step.duration_us",
    "queue.running_depth",
    "queue.waiting_depth",
    "batch.num_prefill_reqs",
    "batch.num_decode_reqs",
    "batch.scheduled_tokens",
    "batch.prefill_tokens",
    "batch.decode_tokens",
    "batch.num_finished",
    "batch.num_preempted",
    "kv.blocks_total_gpu",
    "kv.blocks_free_gpu",
)
EVENT = (
    '{"timeUnixNano":"%d","name":"step.BATCH_SUMMARY","attributes":['
    + ",".join('{"key":"KEY","value":{"intValue":"%d"}}'.replace("KEY", key) for key in KEYS)
    + ',{"key":"kv.usage_gpu_ratio","value":{"doubleValue":%r}}]}'
)
LINE = (
    '{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"vllm"}}]},'
    '"scopeSpans":[{"scope":{"name":"vllm.scheduler"},"spans":[{"name":"scheduler_steps_%d","kind":1,'
    '"events":[%s]}]}]}]}\n'
)
CONFIG = (
    "model: meta-llama/Llama-2-70b-hf\ntensor_parallelism: 4\nmax_num_batched_tokens: 2048\nmax_num_seqs:"
    " 128\n"
)
EVENTS_PER_LINE = 100
BLOCKS = 31_356
# Steps between events, duration in us, decoding, prefilling and waiting requests, free blocks.
LEAST, BELOW = (1, 300, 1, 0, 0, 5000), (20, 9000, 128, 4, 9, 31_000)


def write(folder: Path, megabytes: float) -> Path:
    """An experiment folder with an uncompressed trace of at least that size; returns the trace."""
    folder.mkdir(parents=True)
    (folder / "exp-config.yaml").write_text(CONFIG)
    rng, step, start_ns, line = np.random.default_rng(0), 0, 20_000_000_000_000, 0
    path = folder / "traces.json"
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            numbers = rng.integers(LEAST, BELOW, (EVENTS_PER_LINE, len(LEAST)))
            events = []
            for gap, duration, decode, prefill, waiting, free in numbers.tolist():
                step, start_ns = step + gap, start_ns + gap * (16_000_000 + 40_000 * decode)
                end = start_ns + 1000 * duration
                when = (end, step, start_ns, end, duration)
                batch = (decode + prefill, waiting, prefill, decode, decode + 16 * prefill, 16 * prefill)
                events.append(EVENT % (*when, *batch, decode, 0, 0, BLOCKS, free, 1 - free / BLOCKS))
            line += 1
            file.write(LINE % (line, ",".join(events)))
    return path
