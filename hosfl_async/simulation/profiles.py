"""Named device and network profiles: what a scenario means by ``device = "phone_mid"`` or ``network = "lte"``.

Every figure and its source, or that it is our own estimate, stands in docs/fleets.md. A profile is an order of magnitude, not a
measurement of your device: where it matters, write ``flops_per_s`` or a ``[network]`` table of your own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceName = Literal["reference", "phone_high", "phone_mid", "phone_low", "raspberry_pi_4", "microcontroller_gateway", "laptop"]
NetworkName = Literal["scenario", "ethernet", "wifi", "5g", "lte", "3g", "lora_like", "satellite"]


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """Zero means: not known, not modelled."""

    flops_per_s: float = 0.0
    """Sustained float32 operations per second of a forward pass."""
    memory_bytes: float = 0.0
    """What a training process may take."""
    watts: float = 0.0
    """Drawn beyond idling while it computes."""


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """One-way latency: ``latency_s`` times a log-normal factor (median 1) for every message."""

    latency_s: float
    latency_sigma: float
    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    loss: float = 0.0
    uplink_joules_per_byte: float = 0.0
    downlink_joules_per_byte: float = 0.0


DEVICES: dict[str, DeviceProfile] = {
    "reference": DeviceProfile(),
    "phone_high": DeviceProfile(flops_per_s=50e9, memory_bytes=2e9, watts=4.0),
    "phone_mid": DeviceProfile(flops_per_s=15e9, memory_bytes=1e9, watts=3.0),
    "phone_low": DeviceProfile(flops_per_s=4e9, memory_bytes=300e6, watts=2.0),
    "raspberry_pi_4": DeviceProfile(flops_per_s=8e9, memory_bytes=1e9, watts=3.5),
    "microcontroller_gateway": DeviceProfile(flops_per_s=50e6, memory_bytes=4e6, watts=0.5),
    "laptop": DeviceProfile(flops_per_s=100e9, memory_bytes=4e9, watts=15.0),
}
"""By the name in ``[[fleet]]``."""

_MBIT = 1e6 / 8
_PER_MBIT_PER_S = 1e-3 / _MBIT
"""Joules per byte of one milliwatt per Mbit/s."""

NETWORKS: dict[str, NetworkProfile] = {
    "ethernet": NetworkProfile(0.001, 0.1, 1000 * _MBIT, 1000 * _MBIT),
    "wifi": NetworkProfile(0.01, 0.5, 20 * _MBIT, 50 * _MBIT, 0.0, 283.17 * _PER_MBIT_PER_S, 137.01 * _PER_MBIT_PER_S),
    "5g": NetworkProfile(0.015, 0.4, 50 * _MBIT, 200 * _MBIT, 0.0, 109.6 * _PER_MBIT_PER_S, 12.99 * _PER_MBIT_PER_S),
    "lte": NetworkProfile(0.035, 0.4, 12 * _MBIT, 12 * _MBIT, 0.0, 438.39 * _PER_MBIT_PER_S, 51.97 * _PER_MBIT_PER_S),
    "3g": NetworkProfile(0.15, 0.5, 0.768 * _MBIT, 1.6 * _MBIT, 0.0, 868.98 * _PER_MBIT_PER_S, 122.12 * _PER_MBIT_PER_S),
    "lora_like": NetworkProfile(0.5, 0.3, 5470 / 8, 5470 / 8, 0.05, 0.13 / (5470 / 8), 0.04 / (5470 / 8)),
    "satellite": NetworkProfile(0.3, 0.1, 1 * _MBIT, 15 * _MBIT, 0.01),
}
"""By the name in ``[[fleet]]``; ``scenario`` is the table ``[network]``."""
