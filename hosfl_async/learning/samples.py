"""What a data set consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[Any]
"""float32 (n, channels, height, width), or token ids int32 (n, longest), padded: see ``sequences``."""
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples of a data set, as its source gives them."""

    images: Images
    labels: Labels
    classes: int
    vocabulary: int = 0
    held_out: NDArray[np.bool_] | None = None
    """A fixed test set, where the data have one."""
    owners: Indices | None = None
    """Whose each sample is, where the data say so."""
