"""What the risky parts of the features do together in the reference."""

import numpy as np

from models.detectors.kernel import gram
from models.detectors.tails import Floats


def second_moments(part: Floats) -> Floats:
    """Mean over rows of the product of every two features, whose mean is 0; a null counts as the mean.

    The same bits whatever the number of threads. Shape (features, features).
    """
    return np.asarray(gram(np.nan_to_num(part, nan=0.0)) / part.shape[0])


def shrunk(part: Floats, covariance: Floats) -> Floats:
    """Ledoit-Wolf: covariance drawn towards the identity, by how far chance could have moved it.

        S     = covariance,  m = trace(S) / p,  n rows, p features
        noise = (mean over rows of (sum_j x[j]^2)^2 - |S|^2) / n
        share = min(noise, |S - m I|^2) / |S - m I|^2
        out   = (1 - share) S + share m I

    Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".
    """
    identity = np.eye(covariance.shape[0]) * np.trace(covariance) / covariance.shape[0]
    lengths = (np.nan_to_num(part, nan=0.0) ** 2).sum(axis=1)
    apart = float(((covariance - identity) ** 2).sum())
    noise = (float((lengths**2).mean()) - float((covariance**2).sum())) / part.shape[0]
    share = 1.0 if apart <= noise else max(noise, 0.0) / apart
    return np.asarray((1.0 - share) * covariance + share * identity)
