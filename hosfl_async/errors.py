"""The error tree. Every error a user can meet is drawn here; anything else that escapes is a bug.

::

    HosflError
    |-- CodecError          bytes that are not a message of ours (the sender's fault)
    |-- SettingsError       a scenario, option or setting that cannot be (the user's fault)
    |-- LogError            an update log that does not hold together (the storage's or a peer's fault)
    |   `-- DiskFullError   nothing was written and nothing is lost: there is no space, and it can be tried again
    |-- LearnerError        a job that cannot be computed as asked (the caller's fault)
    |-- TransportError      the broker or the link (the world's fault)
    |   `-- OversizeError   a payload that the broker would answer by closing the connection
    |-- TrackingError       a tracking tool that does not take what it is told (the tool's or the world's fault)
    `-- AgentError          an agent's own rule was broken (our fault; carries the agent's recent story)
"""

from collections.abc import Iterable
from difflib import get_close_matches


class HosflError(Exception):
    """Base of every error that this package raises on purpose."""


class CodecError(HosflError):
    """Bytes refused by the codec: wrong schema, type, shape, size, encoding, or a number that is not finite."""


class SettingsError(HosflError):
    """A setting that cannot be: says what, where, what was expected and how to mend it.

    Parameters
    ----------
    where: file and key, for example ``scenarios/a.toml: fleet[0].count``.
    problem: what is wrong, in one sentence.
    expected, found: what should stand there, and what does.
    mend: how to put it right, if that is not obvious.
    """

    def __init__(self, where: str, problem: str, *, expected: str = "", found: str = "", mend: str = "") -> None:
        self.where, self.problem, self.expected, self.found, self.mend = where, problem, expected, found, mend
        parts = [f"{where}: {problem}"]
        if expected:
            parts.append(f"expected {expected}")
        if found:
            parts.append(f"found {found}")
        if mend:
            parts.append(mend)
        super().__init__("; ".join(parts))


def meant(word: str, known: Iterable[str]) -> str:
    """``did you mean ...?`` where ``word`` is nearly one of the known ones, as a ``mend``; otherwise nothing."""
    close = get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


class LogError(HosflError):
    """An update log with a gap, a broken hash chain, or a digest that does not follow from its entries."""


class DiskFullError(LogError):
    """A record for which the disk has no space. The store is as it was before, and the record may be appended again."""


class LearnerError(HosflError):
    """A job that the learner cannot compute: unknown step, wrong version, wrong shape."""


class TransportError(HosflError):
    """The transport cannot carry bytes: no broker, refused, connection lost."""


class OversizeError(TransportError):
    """A payload above the broker's packet limit; refused here, since sending it would cost the connection."""


class TrackingError(HosflError):
    """TensorBoard, MLflow or Weights & Biases failed to take a run; the run folder is whole and can be exported again."""


class AgentError(HosflError):
    """An agent met a state that its own rules exclude; always a bug in this package."""
