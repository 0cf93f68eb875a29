"""What MLflow runs to serve a registered model: step rows in, periods out. Logged as code beside the bundle,
never pickled.

    model = mlflow.pyfunc.load_model("models:/blis-step-time@champion")
    model.predict(rows)         # rows: the step table without targets → period_us, low_us, high_us, kind

The file is code that MLflow copies into the model and runs there (`mlflow.models` "models from code"); h3
itself predicts from the bundle (`registry.load`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.models.signature import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

from h3 import bundle
from h3.bundle import uncertainty
from h3.common.errors import InputError
from h3.steps import batch, schema
from h3.steps import rows as checked

# Without these no step can be told from another; every other column may be missing or null.
REQUIRED = (
    "hardware",
    "tensor_parallelism",
    *(column.name for column in schema.ARCHITECTURE if column.default is None),
    "num_prefill_reqs",
    "num_decode_reqs",
)
OPTIONAL = tuple(
    column.name for column in schema.COLUMNS if column.nullable and column.name in batch.COMPOSITION
)


def signature() -> ModelSignature:
    """The step table's columns without targets in, period_us and its interval out.

    What must be there and of which type is left open: periods_us names row and field, MLflow does not.
    """
    columns = [column for column in schema.COLUMNS if column not in schema.TARGETS]
    inputs = Schema([ColSpec(AnyType(), column.name, required=False) for column in columns])
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("double", "period_us"),
        *(ColSpec("double", name, required=False) for name in ("low_us", "high_us")),
        ColSpec("string", "kind"),
    ]
    return ModelSignature(inputs=inputs, outputs=Schema(outputs))


def periods_us(read: bundle.Bundle, rows: pd.DataFrame) -> pd.DataFrame:
    """Predicted period of each row and its interval, as bundle/uncertainty.py says: period_us, low_us,
    high_us and kind, with the rows' index.

    Raises InputError naming a column that is needed and missing, or the row and field that no step has. Null
    compositions count as physics.py says.
    """
    missing = [name for name in REQUIRED if name not in rows.columns]
    if missing:
        raise InputError(f"step rows: column {missing[0]!r} is missing; expected {', '.join(REQUIRED)}")
    table = schema.with_defaults(checked.check(rows))
    absent = [name for name in OPTIONAL if name not in rows.columns]
    table = table.assign(**dict.fromkeys(absent, np.nan)) if absent else table
    periods = read.predict(table)
    told = uncertainty.intervals(read.evidence, table, periods)
    return pd.DataFrame({"period_us": periods}, index=rows.index).join(told)


class StepTime(PythonModel):
    """The bundle in the artifact `bundle` as a pyfunc."""

    # The signature says what is needed; MLflow warns about missing type hints otherwise.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle; MLflow calls it once, before the first prediction."""
        self.bundle = bundle.read(context.artifacts["bundle"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predicted period of each row (`periods_us`); context and params are MLflow's and not used."""
        try:
            return periods_us(self.bundle, pd.DataFrame(model_input))
        except InputError as error:  # the server answers 400, with this line and without a stack trace
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None


set_model(StepTime())
