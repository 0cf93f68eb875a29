"""Make h3 the default latency backend of a BLIS checkout.

    python docs/blis/patch/apply.py PATH/TO/inference-sim
    python docs/blis/patch/apply.py PATH/TO/inference-sim --check    # says what it would change

One new file and some edits, each found by the few words of BLIS that it hangs on. Nothing is written unless
every edit has its place, so another version of BLIS is changed as a whole or not at all. Applied twice it
changes nothing. Ends with 1 and a line for each edit that has no place.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NEW_FILES = ("sim/latency/h3.go",)


@dataclass(frozen=True)
class Edit:
    """Why, in which files (a glob), what is searched (a regular expression) and what stands there then.

    Files without the pattern are left alone; at least one must have it.
    """

    why: str
    files: str
    search: str
    replace: str


EDITS = (
    Edit(
        "the list of names",
        "sim/*.go",
        r"(validLatencyBackends\s*=\s*map\[string\]bool\{)",
        r'\1"h3": true, ',
    ),
    Edit(
        "the factory, before coefficients are asked for: h3 has none",
        "sim/latency/latency.go",
        r"\n([^\n]*\n)?(\tif len\(coeffs\.AlphaCoeffs\) < 3 \{)",
        '\n\tif hw.Backend == "h3" {\n\t\treturn newH3(hw, o.adapterCost)\n\t}\n' r"\1\2",
    ),
    Edit(
        "the flag's default and help",
        "cmd/*.go",
        r'"latency-model", "trained-physics", "Latency model backend: trained-physics \(default\)'
        r', roofline"\)',
        '"latency-model", "h3", "Latency model backend: h3 (default), trained-physics, roofline")\n'
        '\tcmd.Flags().StringVar(&latency.H3.Bundle, "h3-bundle", "",'
        ' "Folder of an h3 bundle; by default the one that ships with h3")',
    ),
    Edit(
        "GPU, TP and the model's folder are resolved as for roofline",
        "cmd/*.go",
        r'\n(\tif )backend == "roofline" \{',
        "\n" r'\1backend == "roofline" || backend == "h3" {',
    ),
    Edit(
        "KV blocks and the longest context are derived from config.json and the GPU's memory",
        "cmd/*.go",
        r'(\b[\w.]*[bB]ackend) == "roofline" \|\| \1 == "trained-physics"(?! \|\|)',
        r'\1 == "roofline" || \1 == "trained-physics" || \1 == "h3"',
    ),
    Edit(
        "what h3 cannot serve is said once, before an instance panics",
        "cmd/root.go",
        r"\n(\tif dataParallelism < 1 \{)",
        '\n\tif backend == "h3" {\n'
        "\t\tlatency.H3.ModelConfigFolder = modelConfigFolder\n"
        "\t\tif err := latency.CheckH3(sim.ModelHardwareConfig{\n"
        "\t\t\tModelConfig: modelConfig, HWConfig: hwConfig, Model: model, GPU: gpu, TP: tensorParallelism,\n"
        "\t\t\tDP: dataParallelism, EnableExpertParallel: enableExpertParallel, Backend: backend,\n"
        "\t\t}); err != nil {\n"
        '\t\t\tlogrus.Fatalf("--latency-model h3: %v", err)\n'
        "\t\t}\n\t}\n"
        r"\1",
    ),
    Edit(
        "a request knows how much of its prompt the prefix cache held",
        "sim/request.go",
        r"\n(\tProgressIndex\s+int64[^\n]*\n)",
        "\n" r"\1" "\tCachedTokens int64 // of the prompt, held by the prefix cache when it was scheduled\n",
    ),
    Edit(
        "where a waiting request is scheduled",
        "sim/*.go",
        r"\n(\t+)(startIndex := util\.Len64\(cachedBlocks\) \* ctx\.KVCache\.BlockSize\(\))\n",
        "\n" r"\1\2" "\n" r"\1next.CachedTokens = startIndex" "\n",
    ),
)


def main() -> int:
    """Plan all edits, then write them; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder of inference-sim")
    parser.add_argument("--check", action="store_true", help="say what would change, change nothing")
    asked = parser.parse_args()
    texts, without = planned(asked.checkout)
    for why in without:
        print(f"error: no place for: {why}; expected a BLIS as of August 2026 (f90a1e3a)", file=sys.stderr)
    if without:
        return 1
    for name, (text, whys) in sorted(texts.items()):
        print(f"{name}: {'; '.join(whys)}")
        if not asked.check:
            (asked.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (asked.checkout / name).write_text(text)
    print("nothing to change" if not texts else "next: go get github.com/inference-sim/h3/go@latest")
    return 0


def planned(checkout: Path) -> tuple[dict[str, tuple[str, list[str]]], list[str]]:
    """New text and reasons by file, and what has no place."""
    if applied(checkout):
        return {}, []
    texts: dict[str, tuple[str, list[str]]] = {}
    without = []
    for edit in EDITS:
        places = 0
        for path in sorted(checkout.glob(edit.files)):
            name = path.relative_to(checkout).as_posix()
            text, whys = texts.get(name, (path.read_text(), []))
            if name.endswith("_test.go"):
                continue
            text, found = re.subn(edit.search, edit.replace, text)
            places += found
            if found:
                texts[name] = (text, [*whys, edit.why])
        if not places:
            without.append(f"{edit.why} ({edit.files})")
    for name in NEW_FILES:
        texts[name] = ((HERE / name).read_text(), ["the backend"])
    return texts, without


def applied(checkout: Path) -> bool:
    """Whether the new files are there as they are here."""
    return all(
        (checkout / name).is_file() and (checkout / name).read_text() == (HERE / name).read_text()
        for name in NEW_FILES
    )


if __name__ == "__main__":
    sys.exit(main())
