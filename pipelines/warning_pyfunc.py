"""How MLflow serves an early-warning model: this script is stored with it and run when it is loaded."""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model

from models.warning import WarningModel
from pipelines.tracking import from_wire, to_wire


class WarningPyfunc(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no types we follow
    """Takes the keys (`ts` in microseconds since 1970) and features, answers as `WarningModel.predict` does."""

    model: WarningModel

    def load_context(self, context: Any) -> None:
        self.model = WarningModel.from_json(Path(context.artifacts["model"]).read_text(encoding="utf-8"))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        return to_wire(self.model.predict(from_wire(model_input)))


set_model(WarningPyfunc())
