"""The journal of a run: what every agent met, in order, as a file that is equal to the byte whenever the run is.

Hosts note events while they happen; ``report``, ``hosfl story`` and people read them afterwards. What a host must note:

================  =====================================================  =====================  ============
what              when; ``agent`` is whom it happened to                 kind                   peer, size
================  =====================================================  =====================  ============
started           ``Started`` is fed; values: boot, records              -                      -
sent              a message leaves                                       message                recipient, B
delivered         it is decoded and fed                                  message                sender, B
lost              the network dropped it; agent is the recipient         message                sender, B
duplicated        the network doubled it; agent is the recipient         message                sender, B
missed            it came while its recipient was away                   message                sender, B
refused           it did not decode                                      message, if known      sender, B
job_started       the learner is asked                                   job                    -
job_done          its result is fed                                      job                    -
job_failed        its failure is fed; values: reason                     job                    -
timer             ``TimerFired`` is fed                                  the timer's name       -
persisted         a record is durable                                    record                 -
recorded          ``Record`` is obeyed; values: its numbers              the record's name      -
peer_gone         ``PeerGone`` is fed                                    -                      who is gone
crashed, stopped  the agent is gone, by accident or in good order        -                      -
departed          it has left for ever                                   -                      -
paused, resumed   its device is suspended, and back with its memory      -                      -
================  =====================================================  =====================  ============

``step`` is the step that the message, job or record is about, in the spelling of ``str(StepId)``; the commit of a log entry is about
several, in canonical order and separated by spaces (``steps_of`` writes it). Time is the host's: there is no clock in here.

The file is a MessagePack stream: the text ``hosfl trace 1``, then *chunks*, byte strings that each hold an array of records. What
is not yet a whole chunk when the process dies is not read: an interrupted run leaves a shorter journal, never a broken one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from struct import Struct as Packing
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

from msgspec import MsgspecError, Struct
from msgspec.msgpack import Decoder, Encoder

from hosfl_async.errors import CodecError, SettingsError
from hosfl_async.messages import EntryCommitted, StepId

RECORDS_BUFFERED_MAX = 1024
"""Records that wait in memory for the next chunk: what a killed process loses at most of its journal."""

CHUNK_BYTES_MAX = 2**28
"""Longest chunk that a reader believes in."""

_TITLE = Encoder().encode("hosfl trace 1")
_CHUNK_HEAD = Packing(">BI")
_CHUNK_TAG = 0xC6
"""MessagePack's "bin 32": this byte, then the length as four bytes, big-endian."""

_STEP_NAME = re.compile(r"([A-Za-z0-9_.-]{1,64})(?:#([0-9]{1,19}))?/([0-9]{1,19})")

Value = int | float | str


class TraceRecord(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One event. ``serial`` counts 1, 2, 3 ... in one journal; ``bytes`` is the length of the encoded message."""

    time_s: float
    serial: int
    agent: str
    what: str
    kind: str = ""
    step: str = ""
    peer: str = ""
    bytes: int = 0
    values: dict[str, Value] | None = None


_ENCODER = Encoder()
_CHUNK = Decoder(list[TraceRecord])


def steps_of(subject: Any) -> str:
    """The step or steps that a message, job or durable record is about, as ``TraceRecord.step`` has it; "" if none."""
    if isinstance(subject, EntryCommitted):
        return " ".join([str(term.step) for term in subject.entry.terms])
    step = getattr(subject, "step", None)
    return "" if step is None else str(step)


class TraceEnd(NamedTuple):
    """Where a journal ends: bytes of its whole chunks, serial number and time of the last record."""

    place: int = 0
    serial: int = 0
    time_s: float = 0.0


class TraceWriter:
    """Writes one journal; a context manager. With ``path`` None it is off, and ``note`` returns at once.

    ``after``: goes on with a journal that ends there, and cuts off what follows; without it a new one is begun.

    Nothing is formatted or encoded per note: records wait, at most ``RECORDS_BUFFERED_MAX`` of them, and become one chunk
    together. ``values`` belongs to the journal from then on. An ``OSError`` of the file is
    the caller's to meet; it turns the journal off, whose whole chunks stay readable.
    """

    __slots__ = ("_file", "_serial", "_waiting", "enabled")

    def __init__(self, path: Path | str | None, after: TraceEnd = TraceEnd()) -> None:  # noqa: B008, an immutable tuple
        self._file: BinaryIO | None = None
        self._serial = after.serial
        self._waiting: list[TraceRecord] = []
        self.enabled = path is not None
        """Hosts may ask before they gather what a note would need."""
        if path is not None:
            self._file = Path(path).open("r+b" if after.place else "wb")  # noqa: SIM115
            self._file.truncate(after.place)
            self._file.seek(after.place)
            if not after.place:
                self._file.write(_TITLE)
                self._file.flush()

    def note(
        self,
        time_s: float,
        agent: str,
        what: str,
        kind: str = "",
        step: str = "",
        peer: str = "",
        size: int = 0,
        values: Mapping[str, Value] | None = None,
    ) -> None:
        """Append one record; see the module's table for the words."""
        if not self.enabled:
            return
        self._serial += 1
        self._waiting.append(TraceRecord(time_s, self._serial, agent, what, kind, step, peer, size, values))  # type: ignore[arg-type]
        if len(self._waiting) >= RECORDS_BUFFERED_MAX:
            self.flush()

    def flush(self) -> None:
        """Hand everything noted so far to the operating system. Live hosts call it now and then."""
        if self._file is None or not self._waiting:
            return
        chunk = _ENCODER.encode(self._waiting)
        self._waiting = []
        try:
            self._file.write(_CHUNK_HEAD.pack(_CHUNK_TAG, len(chunk)) + chunk)
            self._file.flush()
        except OSError:
            self.enabled = False
            raise

    def close(self) -> None:
        """Flush and close. Closing twice is fine; what is noted afterwards is dropped."""
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None
        self.enabled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def read_trace(path: Path | str) -> Iterator[TraceRecord]:
    """The records of a journal, oldest first, one chunk in memory at a time; a torn last chunk is left out.

    Raises ``CodecError`` if the file is no journal, or a whole chunk does not decode.
    """
    tail = TraceTail(path)
    while records := tail.more():
        yield from records


def end_of_trace(path: Path | str) -> TraceEnd:
    """Where the whole chunks of a journal end. Raises ``CodecError`` as ``read_trace`` does, ``OSError`` if there is none."""
    tail, end = TraceTail(path), TraceEnd()
    while records := tail.more():
        end = TraceEnd(0, records[-1].serial, records[-1].time_s)
    return end._replace(place=tail.place)


class TraceTail:
    """Reads a journal that may still grow: every call of ``more`` gives the next whole chunk."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self.place = 0

    def more(self) -> list[TraceRecord]:
        """Records of the next chunk; empty if no whole one is there yet. Raises ``CodecError`` as ``read_trace`` does."""
        with self._path.open("rb") as file:
            if self.place == 0:
                title = file.read(len(_TITLE))
                if title != _TITLE[: len(title)]:
                    raise CodecError(f"{self._path}: not a journal of a run; expected it to begin with {_TITLE[1:].decode()!r}")
                if len(title) < len(_TITLE):
                    return []
                self.place = len(_TITLE)
            file.seek(self.place)
            head = file.read(_CHUNK_HEAD.size)
            if len(head) < _CHUNK_HEAD.size:
                return []
            tag, length = _CHUNK_HEAD.unpack(head)
            if tag != _CHUNK_TAG or length > CHUNK_BYTES_MAX:
                raise CodecError(f"{self._path}: damaged at byte {self.place}: expected a chunk, found {head.hex()}")
            chunk = file.read(length)
        if len(chunk) < length:
            return []
        try:
            records = _CHUNK.decode(chunk)
        except (MsgspecError, ValueError, RecursionError) as error:
            raise CodecError(f"{self._path}: damaged in the chunk at byte {self.place}: {str(error)[:200]}") from None
        self.place += _CHUNK_HEAD.size + length
        return records


def parse_step(text: str) -> StepId:
    """``client-3/17`` or, for a later incarnation, ``client-3#2/17``. Raises ``SettingsError`` for anything else."""
    parts = _STEP_NAME.fullmatch(text)
    if parts is None:
        raise SettingsError("step", "not the name of a step", expected="CLIENT/NUMBER or CLIENT#INCARNATION/NUMBER", found=repr(text[:100]))
    client, incarnation, number = parts.groups()
    return StepId(client, int(incarnation or 1), int(number))


def story(records: Iterable[TraceRecord], step: StepId | str) -> list[TraceRecord]:
    """Everything that happened to one step, in order, at all agents, up to the commit that contains it."""
    name = str(parse_step(step) if isinstance(step, str) else step)
    return [record for record in records if record.step == name or (" " in record.step and name in record.step.split(" "))]
