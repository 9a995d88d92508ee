"""Step `train`: what the lake holds of one venue -> a registered early-warning model."""

from features.labels import events
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.labels import label_flags
from pipelines.lake import Lake
from pipelines.matrix import read_matrix
from pipelines.progress import Say, silent
from pipelines.score import prepare
from pipelines.times import Interval
from pipelines.tracking import Registry, RegistryError
from pipelines.train import TrainSummary, train_warning_model


def train_venue(lake: Lake, venue: str, interval: Interval, config: Config, say: Say = silent) -> TrainSummary:
    """Bars, features and labels of `interval`, then walk-forward training, calibration and registration."""
    prepare(lake, venue, interval, say)
    flags = label_flags(lake, venue, interval, config)
    found = events(flags, config.label.refractory_min)
    say(f"training {venue}: {found.height} cascades")
    try:
        return train_warning_model(
            read_matrix(lake, venue, interval),
            found,
            config,
            Registry(config.mlflow, lake.root),
            {"venue": venue, "interval": str(interval)},
            flags=flags,
        )
    except RegistryError as error:
        raise InputError(str(error), mend="check `[mlflow] tracking_uri`, or that the lake can be written") from None
