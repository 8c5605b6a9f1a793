"""What types cannot say: the checks that a well-typed message must pass before an agent sees it, by kind, in ``CHECKS``.

A check raises ``Unsound`` with the place; it does not know who sent the message.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from struct import unpack
from typing import Any

import numpy as np

from hosfl_async.codec.refusal import Unsound
from hosfl_async.messages import (
    CUT_DTYPES,
    SCALED_DTYPES,
    ClientGradient,
    DualVariable,
    LogEntry,
    LogPage,
    ProjectedGradients,
    ServerCheckpoint,
    SmashedData,
    Snapshot,
    Tensor,
)

_FEW_BYTES = 256
"""Up to here a sum of Python floats is faster than numpy."""


def _check_finite(data: bytes, where: str) -> None:
    if len(data) <= _FEW_BYTES and isfinite(sum(unpack(f"<{len(data) // 4}f", data))):
        return  # in float64, finite float32 numbers cannot add up to anything else
    values = np.frombuffer(data, "<f4")
    finite = np.isfinite(values)
    place = int(finite.argmin())
    if not finite[place]:
        raise Unsound(where, "finite numbers", f"{values[place]} at element {place}")


def _check_tensor(tensor: Tensor, where: str, dtype: str, dimensions: int | None = None, ragged: bool = False) -> None:
    if tensor.dtype != dtype:
        raise Unsound(where, dtype, tensor.dtype)
    if dimensions is not None and len(tensor.shape) != dimensions:
        raise Unsound(where, f"{dimensions} dimension(s)", f"shape {tensor.shape}")
    if len(tensor.data) != tensor.bytes_expected:
        raise Unsound(where, f"{tensor.bytes_expected} bytes for {dtype} {tensor.shape}", f"{len(tensor.data)} bytes")
    if tensor.lengths and not ragged:
        raise Unsound(where, "no lengths", f"{len(tensor.lengths)} bytes")
    if tensor.scales and dtype not in SCALED_DTYPES:
        raise Unsound(where, f"no scales for {dtype}", f"{len(tensor.scales)} bytes")
    if dtype == "float32":
        _check_finite(tensor.data, where)
    elif dtype == "bfloat16":
        _check_finite_bfloat16(tensor.data, where)


def _check_finite_bfloat16(data: bytes, where: str) -> None:
    infinite = (np.frombuffer(data, "<u2") & 0x7F80) == 0x7F80
    if infinite.any():
        raise Unsound(where, "finite numbers", f"one that is not at element {int(infinite.argmax())}")


def _check_batch(tensor: Tensor, where: str, ragged: bool = False) -> None:
    if tensor.dtype not in CUT_DTYPES:
        raise Unsound(where, " or ".join(sorted(CUT_DTYPES)), tensor.dtype)
    _check_tensor(tensor, where, tensor.dtype, ragged=ragged)
    if not tensor.shape or tensor.shape[0] < 1:
        raise Unsound(where, "a batch of at least one sample", f"shape {tensor.shape}")
    if tensor.dtype in SCALED_DTYPES:
        _check_scales(tensor, where)


def _check_scales(tensor: Tensor, where: str) -> None:
    if len(tensor.scales) not in tensor.scales_lengths:
        raise Unsound(where, f"1 or {tensor.shape[0]} float32 scales", f"{len(tensor.scales)} bytes")
    _check_finite(tensor.scales, f"{where}.scales")
    if (np.frombuffer(tensor.scales, "<f4") < 0).any():
        raise Unsound(f"{where}.scales", "no negative scale", "one")


def _check_smashed_data(message: SmashedData) -> None:
    _check_batch(message.activations, "SmashedData.activations", ragged=True)
    _check_tensor(message.labels, "SmashedData.labels", "int64", 1)
    samples = _samples(message.activations, "SmashedData.activations")
    labels = message.labels.shape[0]
    if labels != samples and (not labels or samples % labels):  # a multiple: perturbed forwards, too
        raise Unsound("SmashedData.labels", f"{samples} labels, one per sample", str(labels))


def _samples(tensor: Tensor, where: str) -> int:
    """How many samples the rows of a tensor belong to. Lengths are those of one batch, of which there may be several."""
    if not tensor.lengths:
        return tensor.shape[0]
    if len(tensor.lengths) % 2:
        raise Unsound(f"{where}.lengths", "whole uint16", f"{len(tensor.lengths)} bytes")
    lengths = np.frombuffer(tensor.lengths, "<u2")
    rows = int(lengths.sum(dtype=np.int64))
    if not lengths.all() or not tensor.shape[0] or tensor.shape[0] % rows:
        found = f"{rows} rows in samples of {lengths.min()} to {lengths.max()}"
        raise Unsound(f"{where}.lengths", f"{tensor.shape[0]} rows in samples of at least 1", found)
    return len(lengths) * (tensor.shape[0] // rows)


def _check_dual_variable(message: DualVariable) -> None:
    _check_batch(message.dual, "DualVariable.dual")


def _check_projected_gradients(message: ProjectedGradients) -> None:
    if not all(map(isfinite, message.projected_gradients)):
        raise Unsound("ProjectedGradients.projected_gradients", "finite numbers", "one that is not")


def _check_client_gradient(message: ClientGradient) -> None:
    _check_tensor(message.gradient, "ClientGradient.gradient", "float32", 1)


def _check_snapshot(message: Snapshot) -> None:
    _check_tensor(message.parameters, "Snapshot.parameters", "float32", 1)


def _check_log_page(message: LogPage) -> None:
    for version, entry in enumerate(message.entries, start=message.from_version + 1):
        where = f"LogPage.entries[{version - message.from_version - 1}]"
        if entry.version != version:
            raise Unsound(where, f"version {version}", f"version {entry.version}")
        check_terms(entry, where)


def check_terms(entry: LogEntry, where: str) -> None:
    """Terms in strictly increasing canonical order (StepId), coefficients or a gradient, whole and finite float32."""
    previous = None
    for term in entry.terms:
        step = term.step
        if previous is not None and not previous < step:
            raise Unsound(f"{where}.terms", "strictly increasing steps", f"{step} after {previous}")
        if len(term.coefficients) % 4:
            raise Unsound(f"{where}.terms", "whole float32 coefficients", f"{len(term.coefficients)} bytes for {step}")
        if term.gradient and (term.coefficients or len(term.gradient) % 4):
            found = f"{len(term.coefficients)} and {len(term.gradient)} bytes for {step}"
            raise Unsound(f"{where}.terms", "coefficients or a gradient of whole float32", found)
        previous = step
    _check_finite(b"".join([term.coefficients or term.gradient for term in entry.terms]), f"{where}.terms")


def check_checkpoint(checkpoint: ServerCheckpoint) -> None:
    """Every tensor as long as it says and finite: a half that is not would poison whatever it answers."""
    for answer in checkpoint.answers:
        _check_dual_variable(answer)
    for named in checkpoint.state:
        _check_tensor(named.tensor, f"state.{named.name}", named.tensor.dtype)


CHECKS: dict[type, Callable[[Any], None]] = {
    SmashedData: _check_smashed_data,
    DualVariable: _check_dual_variable,
    ProjectedGradients: _check_projected_gradients,
    ClientGradient: _check_client_gradient,
    Snapshot: _check_snapshot,
    LogPage: _check_log_page,
}
