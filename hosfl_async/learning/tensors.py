"""Between tensors as data (dtype, shape, bytes: what agents pass on) and arrays as numbers (what torch and numpy compute with)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hosfl_async.errors import LearnerError
from hosfl_async.messages import Tensor

_KINDS: dict[str, Any] = {"float32": np.dtype("<f4"), "int64": np.dtype("<i8")}


def to_data(array: NDArray[Any]) -> Tensor:
    """An array of float32 or int64 as data (copied)."""
    name = array.dtype.name
    return Tensor(dtype=name, shape=array.shape, data=array.astype(_KINDS[name], copy=False).tobytes())  # type: ignore[arg-type]


def to_array(tensor: Tensor, dtype: str, shape: tuple[int | None, ...], what: str) -> NDArray[Any]:
    """A read-only array over the tensor's own bytes. ``None`` in ``shape`` allows any extent.

    Raises ``LearnerError`` if dtype, shape or length are not as expected; ``what`` names the tensor in the text.
    """
    check_tensor(tensor, (dtype,), shape, what)
    return np.frombuffer(tensor.data, _KINDS[dtype]).reshape(tensor.shape)


def check_tensor(tensor: Tensor, dtypes: Collection[str], shape: tuple[int | None, ...], what: str) -> None:
    """Raises ``LearnerError`` unless dtype, shape and lengths are as expected."""
    fits = len(shape) == len(tensor.shape) and all(want in (None, have) for want, have in zip(shape, tensor.shape, strict=False))
    whole = len(tensor.data) == tensor.bytes_expected and len(tensor.scales) in tensor.scales_lengths
    if tensor.dtype not in dtypes or not fits or not whole:
        wanted = "x".join("any" if extent is None else str(extent) for extent in shape)
        found = f"{tensor.dtype} {'x'.join(map(str, tensor.shape))} in {len(tensor.data)} bytes"
        found += f" and {len(tensor.scales)} of scales" if tensor.scales else ""
        raise LearnerError(f"{what}: expected {' or '.join(sorted(dtypes))} {wanted}, found {found}")


def to_torch(array: NDArray[Any]) -> torch.Tensor:
    """A copy in torch's own, aligned memory: received bytes may start anywhere, and alignment can change how a product rounds."""
    return torch.tensor(array)
