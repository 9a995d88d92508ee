"""What can be chosen when a detector is fitted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Defaults are those of the literature, set before any result was seen.

    `trees`, `sample_rows`: Liu, Ting and Zhou 2008. `threads` changes how long a fit takes and nothing else.
    """

    seed: int = 0
    trees: int = 100
    sample_rows: int = 256  # of the reference, per tree
    variance_share: float = 0.9  # of the reference, that the principal components keep
    combine: str = "mean"  # of an ensemble: mean or max
    threads: int = 1

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {what}, was {value}"
            for name, value, what, right in (
                ("trees", self.trees, "at least 1", self.trees >= 1),
                ("sample_rows", self.sample_rows, "at least 2", self.sample_rows >= 2),
                ("variance_share", self.variance_share, "in (0, 1)", 0 < self.variance_share < 1),
                ("combine", self.combine, "mean or max", self.combine in {"mean", "max"}),
                ("threads", self.threads, "at least 1", self.threads >= 1),
            )
            if not right
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
