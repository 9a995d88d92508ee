"""What is tracked beside a model, and what a run gives back: plain values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Metric = float | Sequence[float | None]
Role = Literal["train", "calibrate", "test"]
COLUMN_TYPES = {"Float": "double", "Int": "long", "UInt": "long", "Boolean": "boolean", "Datetime": "datetime"}


@dataclass(frozen=True)
class Dataset:
    """Rows that a run learned from or was judged on: which ones, from where, of what content.

    `digest` is a hash of the content, `schema` maps column to dtype, `(start, end]` are ISO times. Raises ValueError
    on another role or an empty digest.
    """

    name: str
    digest: str
    source: str
    rows: int
    columns: int
    schema: Mapping[str, str]
    start: str
    end: str
    role: Role

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"`role` must be one of {', '.join(get_args(Role))}, was {self.role!r}")
        if not self.digest:
            raise ValueError("`digest` must not be empty")

    def profile(self) -> str:
        """Everything but the schema as JSON; MLflow's own fields are too short for a whole digest."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "schema"}, sort_keys=True)

    def columns_json(self) -> str:
        """The schema in MLflow's words, with ours beside them."""
        told = [
            {"name": name, "type": mlflow_type(dtype), "polars": dtype, "required": False}
            for name, dtype in self.schema.items()
        ]
        return json.dumps({"mlflow_colspec": told})

    @classmethod
    def parse(cls, profile: str, columns: str) -> "Dataset":
        """The inverse of `profile` and `columns_json`. Raises ValueError, KeyError or TypeError on anything else."""
        schema = {column["name"]: column["polars"] for column in json.loads(columns)["mlflow_colspec"]}
        return cls(schema=schema, **json.loads(profile))


def mlflow_type(dtype: str) -> str:
    """MLflow's word for a polars dtype.

    >>> [mlflow_type(dtype) for dtype in ("Float64", "Int8", "Datetime(time_unit='us', time_zone='UTC')", "String")]
    ['double', 'long', 'datetime', 'string']
    """
    return next((told for start, told in COLUMN_TYPES.items() if dtype.startswith(start)), "string")


@dataclass(frozen=True)
class Record:
    """What is tracked beside a model. A metric given as a list is logged step by step (one per fold), None left out.

    `config` is the whole configuration as JSON text, `headline` the name of the metric that a list of models shows,
    `experiment` where the run belongs (one per label and horizon set; None: that of the settings).
    """

    params: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    tags: Mapping[str, str]
    artifacts: Mapping[str, str]  # file name -> text
    datasets: Sequence[Dataset] = ()
    figures: Mapping[str, bytes | str] = field(default_factory=dict)  # file name -> PNG, or HTML text
    config: str = ""
    seeds: Mapping[str, int] = field(default_factory=dict)
    experiment: str | None = None
    headline: str = ""

    def headline_tags(self) -> dict[str, str]:
        """`metric` and `metric_value` of the headline, where it is one number that is known."""
        value = self.metrics.get(self.headline)
        return {"metric": self.headline, "metric_value": repr(value)} if isinstance(value, float | int) else {}


@dataclass(frozen=True)
class RunRecord:
    """A finished run of ours, read back: enough to do it again, and the hash that the new model must have.

    `config` is as recorded: passwords in addresses read `***`.
    """

    run_id: str
    experiment: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last step of each
    tags: Mapping[str, str]
    config: str
    environment: Mapping[str, Any]
    seeds: Mapping[str, int]
    datasets: tuple[Dataset, ...]
    model_sha256: str
