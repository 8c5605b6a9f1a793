"""Batches of sequences: token ids padded with ``PADDING`` to the longest of the batch, and rows without padding at the cut.

A batch is one integer tensor (batch, longest); that it is integer says that its samples are sequences. The mask of the attention follows
from the padding, so it need not be kept beside. What leaves the client half is *packed*: one row for each token that is there, the samples
one after another. So padding is neither sent nor quantised, and the server half needs no more than the lengths to lay the rows out again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PADDING = -1
"""Stands where a sequence has ended; no token's number."""


def take(samples: Tensor, chosen: Any) -> Tensor:
    """The batch of these samples; sequences are cut after the longest of them."""
    batch = samples[chosen]
    return batch if batch.is_floating_point() else batch[:, : int(lengths_of(batch).max())].contiguous()


def lengths_of(batch: Tensor) -> Tensor:
    """Tokens of each sequence of a batch, int64 (batch,)."""
    return (batch != PADDING).sum(dim=1)


def lengths_beside(batch: Tensor) -> Tensor | None:
    """What the server half gets beside the activations of this batch: the lengths of sequences."""
    return None if batch.is_floating_point() else lengths_of(batch)


def padded(rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Packed rows (tokens, width) laid out as (batch, longest, width), zeros as padding; and where tokens are, bool (batch, longest)."""
    present = torch.arange(int(lengths.max())) < lengths[:, None]
    laid_out = rows.new_zeros((*present.shape, rows.shape[-1]))
    laid_out[present] = rows
    return laid_out, present


def as_bytes(lengths: Tensor | None) -> bytes:
    """Lengths as a message holds them: little-endian uint16; none at all is empty."""
    return b"" if lengths is None else lengths.numpy().astype("<u2").tobytes()


def from_bytes(packed: bytes) -> Tensor | None:
    """The same from a message."""
    return torch.from_numpy(np.frombuffer(packed, "<u2").astype(np.int64)) if packed else None


def as_samples(texts: list[list[int]]) -> NDArray[np.int32]:
    """Token ids of all samples as one array (samples, longest)."""
    samples = np.full((len(texts), max(map(len, texts))), PADDING, np.int32)
    for row, ids in zip(samples, texts, strict=True):
        row[: len(ids)] = ids
    return samples
