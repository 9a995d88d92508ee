"""Rolling statistics by tsfresh and tsflex on a slice. Run by the interpreter of `.venv-bench`, without this project.

`python rolling_others.py SLICE.npz OUT.npz tsfresh|tsflex|tsflex-vectorised WINDOW`: the slice has `x`, shape (bars,
series); prints CPU and wall seconds as JSON and writes the statistics, shape (bars, series, statistics).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

STATISTICS = ("mean", "std", "sum", "max", "min", "median")
FRESH = ("mean", "standard_deviation", "sum_values", "maximum", "minimum", "median")


def by_tsfresh(x: np.ndarray, window: int) -> np.ndarray:
    """Every window as rows of its own (`roll_time_series`), then tsfresh's calculators of the same statistics."""
    from tsfresh import extract_features
    from tsfresh.utilities.dataframe_functions import roll_time_series

    bars, series = x.shape
    names = [f"x{place}" for place in range(series)]
    frame = pd.DataFrame(x, columns=names).assign(id=0, ts=np.arange(bars))
    quiet = {"n_jobs": 0, "disable_progressbar": True}
    rolled = roll_time_series(
        frame, column_id="id", column_sort="ts", max_timeshift=window - 1, min_timeshift=window - 1, **quiet
    )
    wanted = dict.fromkeys(FRESH)
    told = extract_features(rolled, column_id="id", column_sort="ts", default_fc_parameters=wanted, **quiet)
    return np.stack([told[[f"{name}__{what}" for name in names]].to_numpy() for what in FRESH], axis=2)


def by_tsflex(x: np.ndarray, window: int, vectorised: bool) -> np.ndarray:
    """tsflex's strided rolling with numpy's functions, called a window at a time or on all windows at once."""
    from tsflex.features import FeatureCollection, FuncWrapper, MultipleFeatureDescriptors

    index = pd.date_range("2025-01-01", periods=len(x), freq="1min")
    names = [f"x{place}" for place in range(x.shape[1])]
    calls = [getattr(np, what) for what in STATISTICS]
    if vectorised:
        calls = [FuncWrapper(call, output_names=call.__name__, vectorized=True, axis=-1) for call in calls]
    asked = MultipleFeatureDescriptors(calls, names, windows=f"{window}min", strides="1min")
    told = FeatureCollection(asked).calculate(
        pd.DataFrame(x, columns=names, index=index), return_df=True, n_jobs=0, include_final_window=True
    )
    of = {tuple(column.split("__")[:2]): column for column in told.columns}
    labels = [getattr(np, what).__name__ for what in STATISTICS]
    return np.stack([told[[of[name, what] for name in names]].to_numpy() for what in labels], axis=2)


PROGRAMS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "tsfresh": by_tsfresh,
    "tsflex": lambda x, window: by_tsflex(x, window, vectorised=False),
    "tsflex-vectorised": lambda x, window: by_tsflex(x, window, vectorised=True),
}


def main() -> None:
    source, target, name, window = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    x = np.load(source)["x"]
    PROGRAMS[name](x[: window + 10, :1], window)  # imports and first calls are not what is measured
    cpu, wall = time.process_time(), time.perf_counter()
    found = PROGRAMS[name](x, window)
    print(json.dumps({"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}))
    np.savez(Path(target), found=found)


if __name__ == "__main__":
    main()
