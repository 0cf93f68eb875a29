"""What a manifest says of its own errors: intervals by kind of novelty.

    manifest.uncertainty.kinds["new_model"].high[manifest.uncertainty.levels.index(0.9)]   # x predicted us

uncertainty.py says which kinds a step has.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from h3.bundle.json_file import Array, Given, Part

KindName = Literal["known", "new_workload", "new_model", "new_moe", "new_gpu", "new_gpu_no_kernels"]
Level = Annotated[float, Field(ge=0.01, le=0.999)]
Low = Annotated[float, Field(ge=1e-9, le=1)]
High = Annotated[float, Field(ge=1, le=1e9)]
Covered = Annotated[float, Field(ge=0, le=1)]
Few = Field(min_length=1, max_length=16)


class Kind(Part):
    """One kind's interval: factors on the prediction by level, from how many groups, and the share of steps
    that the intervals of other groups covered (absent: too few groups, or none here).
    """

    low: Annotated[tuple[Low, ...], Array, Few]
    high: Annotated[tuple[High, ...], Array, Few]
    groups: int = Field(ge=1, le=10**6)
    coverage: Annotated[tuple[Covered, ...] | None, Array, Given] = None
    words: str


class Uncertainty(Part):
    """Nominal levels, rising, and the kinds that have an interval; kernels_measured: GPUs whose kernels the
    base was fitted to. A kind that is missing has none, `words` say why.
    """

    levels: Annotated[tuple[Level, ...], Array, Few]
    kinds: dict[KindName, Kind]
    kernels_measured: Annotated[tuple[str, ...], Array, Field(max_length=64)]
    words: str

    @model_validator(mode="after")
    def _factors_by_level(self) -> Uncertainty:
        if any(low >= high for low, high in pairwise(self.levels)):
            raise ValueError(f"levels {self.levels}; expected rising ones")
        for name, kind in self.kinds.items():
            for column in (kind.low, kind.high, kind.coverage):
                if column is not None and len(column) != len(self.levels):
                    raise ValueError(f"kinds.{name}: {len(column)} numbers; expected {len(self.levels)}")
            if not (_rises(kind.high) and _rises(kind.low[::-1])):
                raise ValueError(f"kinds.{name}: an interval narrower than that of a lower level")
        return self


def _rises(values: tuple[float, ...]) -> bool:
    return all(one <= other for one, other in pairwise(values))
