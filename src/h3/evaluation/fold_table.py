"""The fold table: a row a fold, as printed after a sweep, kept with a bundle and shown on a model card.

>>> row = FoldRow(fold="lowo_codegen", model="roofline", n_test=512, mape=12.3, bias=-4, status="FINISHED")
>>> print(markdown([row]), end="")              # of a finished fold: FoldRow.of(result)
| fold | model | MAPE % | 95 % interval | base alone % | bias % | steps | status |
|---|---|---|---|---|---|---|---|
| lowo_codegen | roofline | 12.30 | ––– | – | -4.00 | 512 | FINISHED |
"""

from __future__ import annotations

from h3.common.records import Number, Record
from h3.evaluation.result import FoldResult

HEAD = ("fold", "model", "MAPE %", "95 % interval", "base alone %", "bias %", "steps", "status")


class FoldRow(Record):
    """Errors of one fold in %; `moe`: whether it holds a MoE model out; run_id: of the tracked run ("":
    none); data: what it rests on, in words ("": a row of before).
    """

    fold: str
    kind: str = ""
    holdout: str = ""
    model: str = ""
    n_test: Number = None
    mape: Number = None
    mape_low: Number = None
    mape_high: Number = None
    mape_base: Number = None
    bias: Number = None
    moe: bool = False
    status: str = ""
    run_id: str = ""
    data: str = ""

    @classmethod
    def of(cls, result: FoldResult, moe: bool = False) -> FoldRow:
        """The row of a finished fold."""
        return cls(
            fold=result.fold,
            kind=result.kind,
            holdout=result.holdout,
            model=result.model,
            n_test=result.n_test,
            mape=result.mape,
            mape_low=result.low,
            mape_high=result.high,
            mape_base=result.mape_base,
            bias=result.bias,
            moe=moe,
            status="FINISHED",
            run_id=result.mlflow_run_id,
            data=result.data,
        )

    def cells(self) -> list[str]:
        """The row as printed."""
        if self.mape is None:
            return [self.fold, self.model, *["–"] * 5, self.status]
        interval = f"{_number(self.mape_low)}–{_number(self.mape_high)}"
        base, bias, steps = _number(self.mape_base), _number(self.bias, "+.2f"), _number(self.n_test, ".0f")
        return [self.fold, self.model, _number(self.mape), interval, base, bias, steps, self.status]


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def markdown(rows: list[FoldRow]) -> str:
    """The fold table as Markdown, under a line that says which data it rests on."""
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    head, rule, *body = (list(line) for line in lines)
    told = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(line)} |" for line in body)]
    data = " | ".join(dict.fromkeys(row.data for row in rows if row.data))
    return "\n".join([*([f"Data: {data}", ""] if data else []), *told]) + "\n"
