"""Where the split server's checkpoint lives: one safetensors file, replaced whole (``durable_files``), with a digest over everything.

The tensors are those of the server half, its optimiser and the remembered duals (as raw bytes, since safetensors knows no four-bit
numbers); the journal of steps is JSON in the header's metadata. Anybody's safetensors reader can open it. Only our own file is ever read
back: it is checked against its digest first, decoded by type, and never unpickled.
"""

from __future__ import annotations

import json
from errno import EDQUOT, ENOSPC
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hosfl_async.codec import decode_record, encode_record
from hosfl_async.durable_files import write_durably
from hosfl_async.errors import CodecError, DiskFullError, LogError
from hosfl_async.messages import DualVariable, NamedTensor, ServerCheckpoint, StepId, Tensor

CHECKPOINT_SCHEMA_VERSION = 1
_KINDS: dict[str, Any] = {"float32": np.dtype("<f4"), "int64": np.dtype("<i8")}
_STATE, _ANSWER = "state.", "answer."


class LatestCheckpoint:
    """The same without a disk, for simulated servers."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: ServerCheckpoint | None = None

    def append(self, record: ServerCheckpoint) -> None:
        self._latest = record

    def records(self) -> tuple[ServerCheckpoint, ...]:
        return () if self._latest is None else (self._latest,)


class CheckpointStore:
    """The latest checkpoint of one server. ``run`` names what it belongs to.

    ``append`` and ``records`` raise ``LogError`` naming the file if it cannot be read, written or believed, or belongs to another run.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path, self._run = path, run

    def append(self, record: ServerCheckpoint) -> None:
        """Durable when this returns; until then the former one stands."""
        try:
            write_durably(self.path, pack_checkpoint(record, self._run))
        except OSError as error:
            kind = DiskFullError if error.errno in (ENOSPC, EDQUOT) else LogError
            raise kind(f"{self.path}: the checkpoint could not be written ({error})") from error

    def records(self) -> tuple[ServerCheckpoint, ...]:
        """The latest checkpoint, if there is one."""
        try:
            packed = self.path.read_bytes() if self.path.exists() else None
        except OSError as error:
            raise LogError(f"{self.path}: the checkpoint could not be read ({error})") from error
        return () if packed is None else (unpack_checkpoint(packed, self._run, str(self.path)),)


class _Journal(msgspec.Struct, forbid_unknown_fields=True):
    """The metadata's JSON: all but the tensors' bytes."""

    schema: int
    run: str
    server_steps: int
    newest_base: int
    steps: list[StepId]
    state: list[str]
    answers: list[tuple[StepId, int, str, list[int], int]]
    """Step, server version, dtype, shape, bytes of scales at the end of the answer's tensor."""


def pack_checkpoint(record: ServerCheckpoint, run: str) -> bytes:
    """One safetensors file."""
    arrays: dict[str, NDArray[Any]] = {
        _STATE + each.name: np.frombuffer(each.tensor.data, _KINDS[each.tensor.dtype]).reshape(each.tensor.shape) for each in record.state
    }
    answers: list[tuple[StepId, int, str, list[int], int]] = []
    for index, answer in enumerate(record.answers):
        dual = answer.dual
        arrays[f"{_ANSWER}{index}"] = np.frombuffer(dual.data + dual.scales, np.uint8)
        answers.append((answer.step, answer.server_version, dual.dtype, list(dual.shape), len(dual.scales)))
    names = [each.name for each in record.state]
    journal = _Journal(CHECKPOINT_SCHEMA_VERSION, run, record.server_steps, record.newest_base, list(record.steps), names, answers)
    told = msgspec.json.encode(journal).decode()
    return save(arrays, {"journal": told, "digest": _digest(told, arrays)})


def unpack_checkpoint(packed: bytes, run: str, where: str) -> ServerCheckpoint:
    """The reverse. Raises ``LogError``, whatever the bytes."""
    try:
        length = int.from_bytes(packed[:8], "little")
        meta = json.loads(packed[8 : 8 + length])["__metadata__"]
        arrays = load(packed)
        told, digest = str(meta["journal"]), str(meta["digest"])
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise LogError(f"{where}: not a checkpoint, or torn ({type(error).__name__}: {str(error)[:100]})") from None
    if _digest(told, arrays) != digest:
        raise LogError(f"{where}: damaged, its digest differs")
    try:
        journal = msgspec.json.decode(told, type=_Journal)
        if (journal.schema, journal.run) != (CHECKPOINT_SCHEMA_VERSION, run):
            wanted = f"schema {CHECKPOINT_SCHEMA_VERSION} of {run}"
            raise LogError(f"{where}: the checkpoint of another run; expected {wanted}, found schema {journal.schema} of {journal.run}")
        record = ServerCheckpoint(
            journal.server_steps,
            journal.newest_base,
            tuple(journal.steps),
            tuple(_answer(arrays[f"{_ANSWER}{index}"].tobytes(), *rest) for index, rest in enumerate(journal.answers)),
            tuple(NamedTensor(name, _tensor(arrays[_STATE + name])) for name in journal.state),
        )
        checked = decode_record(encode_record(record))
    except (msgspec.MsgspecError, CodecError, KeyError) as error:
        raise LogError(f"{where}: {error}") from None
    assert isinstance(checked, ServerCheckpoint)
    return checked


def _answer(data: bytes, step: StepId, server_version: int, dtype: Any, shape: list[int], scales_length: int) -> DualVariable:
    end = len(data) - scales_length
    return DualVariable(step, server_version, Tensor(dtype, tuple(shape), data[:end], data[end:]))


def _tensor(array: NDArray[Any]) -> Tensor:
    name = array.dtype.name
    return Tensor(name, array.shape, array.astype(_KINDS.get(name, array.dtype), copy=False).tobytes())  # type: ignore[arg-type]


def _digest(told: str, arrays: dict[str, NDArray[Any]]) -> str:
    """BLAKE2b over the journal and every tensor with its name, dtype and shape, in the order of names."""
    state = blake2b(told.encode(), digest_size=32)
    for name in sorted(arrays):
        array = arrays[name]
        state.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
