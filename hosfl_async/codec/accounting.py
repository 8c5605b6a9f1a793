"""Where the bytes go. Activations and duals are nearly all of HO-SFL's traffic; reports show every kind on its own."""

from __future__ import annotations

from hosfl_async.messages import ClientGradient, DualVariable, LogPage, Message, ProjectedGradients, SmashedData, Snapshot

BYTE_KINDS = ("activations", "labels", "duals", "scalars", "gradients", "log", "control")
"""The kinds that ``bytes_by_kind`` splits traffic into."""


def bytes_by_kind(message: Message, payload_length: int) -> dict[str, int]:
    """Where the bytes of one encoded message go; the values always sum to ``payload_length``.

    A tensor's data, scales and lengths count as their kind, and the rest of that envelope as control. A message that *is* the scalars or
    the log (``ProjectedGradients``; ``ClientGradient``; ``LogPage``, ``Snapshot``) counts as such in whole: names and framing are the
    price of sending them.
    """
    if isinstance(message, SmashedData):
        activations, labels = message.activations.bytes_sent, message.labels.bytes_sent
        return {"activations": activations, "labels": labels, "control": payload_length - activations - labels}
    if isinstance(message, DualVariable):
        duals = message.dual.bytes_sent
        return {"duals": duals, "control": payload_length - duals}
    if isinstance(message, ProjectedGradients):
        return {"scalars": payload_length}
    if isinstance(message, ClientGradient):
        return {"gradients": payload_length}
    if isinstance(message, LogPage | Snapshot):
        return {"log": payload_length}
    return {"control": payload_length}
