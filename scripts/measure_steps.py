"""Time whole steps of a decoder on the GPU at hand, and turn them into the table of source=measured.

    python scripts/measure_steps.py plan --out plan.jsonl.gz                     # what to measure; needs h3
    python scripts/measure_steps.py run --plan plan.jsonl.gz --out steps.jsonl --budget-s 540
    python scripts/measure_steps.py check --plan plan.jsonl.gz steps.jsonl       # spread, repeats, coverage
    python scripts/measure_steps.py pack --plan plan.jsonl.gz --out measured.parquet steps.jsonl

`run` needs PyTorch and NumPy only, and continues a file that was cut off; docs/measure.md goes through it
step by step.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("h3") is None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from measure import plan as plans
from measure.results import Log

from h3.common.errors import InputError

DEFAULT_REPLAYS = 6


def command_plan(args: argparse.Namespace) -> None:
    """Write the plan: simulated experiments, grid, shards and models outside the study."""
    from measure import compositions, grid

    plan = grid.with_grids(compositions.planned(args.steps, args.scale), args.config, args.tp)
    plans.write(args.out, plan)
    counts = {part: sum(step.part == part for step in plan.steps) for part in plans.PARTS}
    print(
        f"{args.out}: {len(plan.steps)} steps, "
        + ", ".join(f"{part} {count}" for part, count in counts.items())
    )


def command_run(args: argparse.Namespace) -> None:
    """Measure, until all is done or the budget is spent."""
    plan = plans.read(args.plan)
    if find_spec("torch") is None:
        raise InputError(
            "PyTorch is not installed; expected it in the environment that runs the collector (extra"
            " 'measure')"
        )
    from measure import run, timing

    memory = args.memory_gb * 1e9 if args.memory_gb else None
    repeats = timing.Repeats(args.warmups, args.replays)
    options = run.RunOptions(tuple(args.part or plans.PARTS), args.device, args.budget_s, memory, repeats)
    options.setup()
    log = Log(args.out, args.done)
    try:
        left = run.run(plan, log, options)
    finally:
        log.close()
    print(f"{args.out}: {left} steps left" if left else f"{args.out}: complete")


def command_check(args: argparse.Namespace) -> None:
    """Print the numbers that the measurement is judged by; InputError where one is not reached."""
    from measure import check

    findings = check.findings(plans.read(args.plan), args.results)
    for finding in findings:
        print(finding)
    missed = [finding.name for finding in findings if finding.reached is False]
    if missed:
        raise InputError(f"not reached: {', '.join(missed)}")


def command_pack(args: argparse.Namespace) -> None:
    """Write the table of source=measured."""
    from measure import pack

    rows = pack.pack(plans.read(args.plan), args.results, args.out)
    print(f"{args.out}: " + ", ".join(f"{part} {count}" for part, count in rows.items()))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = top.add_subparsers(required=True, metavar="command")
    plan = commands.add_parser("plan", help="write what is to be measured")
    plan.add_argument("--out", required=True)
    plan.add_argument("--steps", type=int, default=300, help="steps of each simulated experiment")
    plan.add_argument(
        "--scale", type=float, default=1.0, help="share of the experiments' time that is simulated"
    )
    plan.add_argument(
        "--config", action="append", default=[], help="config.json of one more model, measured on the grid"
    )
    plan.add_argument(
        "--tp", type=int, action="append", default=[], help="tensor-parallel degree of that model (default 1)"
    )
    plan.set_defaults(command=command_plan)
    run = commands.add_parser("run", help="measure on the GPU")
    run.add_argument("--plan", required=True)
    run.add_argument("--out", required=True, help="JSON lines, continued where there are some")
    run.add_argument(
        "--done", action="append", default=[], help="earlier results whose steps are not measured again"
    )
    run.add_argument(
        "--part", action="append", choices=plans.PARTS, help="may be given several times (default: all)"
    )
    run.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    run.add_argument(
        "--budget-s", type=float, default=float("inf"), help="seconds after which no further step is begun"
    )
    run.add_argument("--memory-gb", type=float, help="most memory to use (default: all that is free)")
    run.add_argument("--warmups", type=int, default=1)
    run.add_argument("--replays", type=int, default=DEFAULT_REPLAYS)
    run.set_defaults(command=command_run)
    for name, command, text in (
        ("check", command_check, "judge results"),
        ("pack", command_pack, "write the table of source=measured"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("results", nargs="+", help="JSON lines of run")
        sub.add_argument("--plan", required=True)
        if name == "pack":
            sub.add_argument("--out", required=True)
        sub.set_defaults(command=command)
    return top


def main() -> None:
    args = parser().parse_args()
    try:
        args.command(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
