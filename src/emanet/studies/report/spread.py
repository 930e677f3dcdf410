"""Mean and spread over seeds, and the paired difference of two settings."""

import math
import statistics
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A quantity over the runs of a cell: values in the order of the seeds, in the quantity's own unit."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Their mean; ``None`` without a run."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Standard deviation with n - 1; ``None`` for fewer than two runs."""
        return statistics.stdev(self.values) if self.n > 1 else None


@dataclass(frozen=True)
class Difference:
    """Paired difference to another cell, seed by seed, which takes out what the cells share by their seed.

    Args:
        values: one difference for each seed that both cells have.
    """

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean difference."""
        return statistics.fmean(self.values)

    @property
    def se(self) -> float | None:
        """Standard error of the mean; ``None`` for one pair."""
        return statistics.stdev(self.values) / math.sqrt(self.n) if self.n > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half the width of Student's 95 % confidence interval."""
        return None if self.se is None else self.se * float(stdtrit(self.n - 1, (1 + CONFIDENCE) / 2))

    @property
    def stands_out(self) -> bool:
        """Whether that interval leaves out 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width
