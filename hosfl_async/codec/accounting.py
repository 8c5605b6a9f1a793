"""Where the bytes go. Activations and duals are nearly all of HO-SFL's traffic; reports show every kind on its own."""

from __future__ import annotations

from hosfl_async.messages import ClientGradient, DualVariable, LogPage, Message, ProjectedGradients, SmashedData, Snapshot

BYTE_KINDS = ("activations", "labels", "duals", "scalars", "gradients", "log", "control")
"""The kinds that ``bytes_by_kind`` splits traffic into."""

TENSOR_KINDS: dict[type, tuple[tuple[str, str], ...]] = {
    SmashedData: (("activations", "activations"), ("labels", "labels")),
    DualVariable: (("dual", "duals"),),
}
"""Message type -> (field, kind) of the tensors whose data, scales and lengths count as a kind of their own."""

WHOLE_KINDS: dict[type, str] = {ProjectedGradients: "scalars", ClientGradient: "gradients", LogPage: "log", Snapshot: "log"}
"""Message type -> kind of the rest of its envelope; ``control`` for all others. A message that *is* the scalars or the log counts as such
in whole: names and framing are the price of sending them."""


def bytes_by_kind(message: Message, payload_length: int) -> dict[str, int]:
    """Where the bytes of one encoded message go, by ``TENSOR_KINDS`` and ``WHOLE_KINDS``; the values always sum to ``payload_length``."""
    kind = type(message)
    parts = {of: getattr(message, field).bytes_sent for field, of in TENSOR_KINDS.get(kind, ())}
    return {**parts, WHOLE_KINDS.get(kind, "control"): payload_length - sum(parts.values())}
