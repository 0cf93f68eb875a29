"""Write what go/blis is tested against: requests, two deployments, and what h3's own replay gives.

    python scripts/make_blis_scenario.py          # go/blis/testdata/scenario.json

Three bursts and a trickle bring a queue, prompts in chunks, prefixes found in the cache, and preemption. Run
it again when the scheduler, physics.py or the golden bundle changes, and commit the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from h3 import bundle
from h3.bundle.golden import CONFIGS
from h3.latency.recorded import limits
from h3.latency.replay_run import replay_experiment
from h3.latency.timer import step_time
from h3.server.requests import StepBatch
from h3.sources.experiment import Experiment
from h3.steps import catalog
from h3.steps.sampling import Sampling

GO = Path(__file__).parents[1] / "go"
BUNDLE = GO / "h3bundle" / "testdata" / "bundle"
OUT = GO / "blis" / "testdata" / "scenario.json"

COLUMNS = ["arrival_us", "prompt_tokens", "output_tokens", "cached_tokens", "prefix_group"]
BURSTS_US, BURST, TRICKLE, TRICKLE_GAP_US = (0, 4_000_000, 25_000_000), 80, 60, 300_000
GROUPS, GROUP_TOKENS, LONGEST_PROMPT, BLOCK_TOKENS = 4, 300, 5_000, 16
EXPERTS_176B = CONFIGS["mixtral-8x7b"] | {
    "num_hidden_layers": 56,
    "hidden_size": 6144,
    "num_attention_heads": 48,
    "intermediate_size": 16384,
    "vocab_size": 32768,
}
# Name -> config, tensor parallelism; the weights leave room for 118,000 and 92,000 tokens.
DEPLOYMENTS = {"dense": (CONFIGS["llama-2-7b"], 1), "moe": (EXPERTS_176B, 4)}


def draw() -> pd.DataFrame:
    """The requests as replays read them, by arrival: half of the longer ones share a prefix, and every tenth
    has a prompt that the cache holds to its end, in blocks of its own.
    """
    random = np.random.default_rng(12)
    bursts = np.repeat(BURSTS_US, BURST) + random.integers(0, 200_000, len(BURSTS_US) * BURST)
    arrival = np.sort(np.concatenate([bursts, TRICKLE_GAP_US * np.arange(TRICKLE)]))
    count = len(arrival)
    prompt = np.minimum(random.lognormal(6.9, 0.8, count).astype(int) + 20, LONGEST_PROMPT)
    whole = random.random(count) < 0.1
    prompt = np.where(whole, -(-prompt // BLOCK_TOKENS) * BLOCK_TOKENS, prompt)
    shares = ~whole & (random.random(count) < 0.5) & (prompt > GROUP_TOKENS)
    return pd.DataFrame(
        {
            "request": np.arange(count).astype(str),
            "arrival_us": arrival.astype(float),
            "prompt_tokens": prompt,
            "output_tokens": random.integers(1, 400, count),
            "cached_tokens": np.where(whole, prompt, np.where(shares, GROUP_TOKENS, 0)),
            "prefix_group": np.where(shares, random.integers(0, GROUPS, count), -1),
            "first_us": np.nan,
            "last_us": np.nan,
        }
    )


def rows(requests: pd.DataFrame) -> list[list[int]]:
    """Requests as the scenario's file has them."""
    return [[int(value) for value in row] for row in requests[COLUMNS].itertuples(index=False)]


def deployment(experiment: Experiment, config: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment as the scenario's file has it."""
    return {
        "name": experiment.name,
        "config": config,
        "tensor_parallelism": experiment.tensor_parallelism,
        "hardware": experiment.hardware,
        "generation_config": {"top_p": 0.9} if experiment.sampling.truncated else {},
        "limits": vars(limits(experiment)),
    }


class Counted:
    """A step time that counts its steps."""

    def __init__(self, period_us: Callable[[StepBatch], float]) -> None:
        self.period_us, self.steps = period_us, 0

    def __call__(self, batch: StepBatch) -> float:
        """The period of a step, us."""
        self.steps += 1
        return self.period_us(batch)


def experiment_of(name: str) -> Experiment:
    """A deployment of the scenario as an experiment."""
    config, degree = DEPLOYMENTS[name]
    architecture = catalog.from_hf_config(config, name)
    plain = Sampling(False, "assumed")
    return Experiment(
        name, OUT, name, "bursts", "H100", degree, np.nan, np.nan, BLOCK_TOKENS, architecture, plain
    )


def expected(experiment: Experiment, requests: pd.DataFrame) -> dict[str, Any]:
    """What h3's own replay gives under the golden bundle: us a request, to a tenth."""
    read = bundle.read(BUNDLE)
    longest = int((requests["prompt_tokens"] + requests["output_tokens"]).max())
    timer = Counted(step_time(read, experiment, limits(experiment), longest).period_us)
    table = replay_experiment(requests, experiment, timer, read.overheads)
    return {
        "steps": timer.steps,
        "preemptions": table["preemptions"].tolist(),
        "ttft_us": table["predicted_ttft_us"].round(1).tolist(),
        "e2e_us": table["predicted_e2e_us"].round(1).tolist(),
    }


def content() -> dict[str, Any]:
    """The scenario."""
    requests = draw()
    deployments = []
    for name, (config, _) in DEPLOYMENTS.items():
        experiment = experiment_of(name)
        deployments.append(deployment(experiment, config) | {"expected": expected(experiment, requests)})
    return {"requests": rows(requests), "deployments": deployments}


def main() -> None:
    """Write it."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(content(), separators=(",", ":")) + "\n")
    print(OUT.relative_to(GO.parent))


if __name__ == "__main__":
    main()
