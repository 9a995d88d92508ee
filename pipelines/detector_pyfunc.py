"""How MLflow serves a detector: this script is stored with it and run when it is loaded."""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model

from models.detector import Detector
from pipelines.tracking import from_wire, to_wire


class DetectorPyfunc(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no types we follow
    """Takes a feature matrix (`ts`, `known_at` in microseconds since 1970), answers as `Detector.score` does."""

    model: Detector

    def load_context(self, context: Any) -> None:
        self.model = Detector.from_json(Path(context.artifacts["model"]).read_text(encoding="utf-8"))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        return to_wire(self.model.score(from_wire(model_input)))


set_model(DetectorPyfunc())
