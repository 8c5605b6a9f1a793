"""Settings of a mosquitto for one run: mutual TLS, one name for a device everywhere, bounded queues and packets."""

from __future__ import annotations

import os
from pathlib import Path

from hosfl_async.broker.mqtt_link import PACKET_OVERHEAD_BYTES
from hosfl_async.broker.settings import BrokerSettings

FILES = ("ca.pem", "broker.pem", "broker.key", "crl.pem", "access.list")
"""What ``mosquitto.conf`` names; they lie beside it."""

MOSQUITTO = """\
# mosquitto of run {run}: written by `hosfl provision init`; start it in this folder with `mosquitto -c mosquitto.conf`.
# After `hosfl provision revoke` or `renew` send it SIGHUP: it reads certificates, revocation list and access list again. A device whose
# connection is open when its certificate is revoked keeps it until it next connects; restart the broker to end it at once.
# Started as root, mosquitto becomes the user `mosquitto`, who must own these files (or say `user root` here, on a machine for trials).

listener {port}
cafile ca.pem
certfile broker.pem
keyfile broker.key
crlfile crl.pem
tls_version tlsv1.2

# No certificate of ours, no connection; and the certificate's common name is the user name and the client identifier.
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file access.list

# Nothing is kept for anybody: guarantees are the agents' own acknowledgements. Presence is the only retained topic.
persistence false
retain_available true
max_queued_messages 0
max_queued_bytes {queue_bytes}
max_inflight_messages 100
max_packet_size {packet_bytes}

# Without it a question and its answer take 40 ms longer.
set_tcp_nodelay true

log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
"""


def mosquitto_settings(run: str, port: int, settings: BrokerSettings) -> str:
    """``mosquitto.conf`` of the run; the files it names lie beside it."""
    packet_bytes = settings.payload_bytes_max + 2 * PACKET_OVERHEAD_BYTES
    return MOSQUITTO.format(run=run, port=port, queue_bytes=settings.broker_queue_bytes_max, packet_bytes=packet_bytes)


def rehearsed_settings(broker: Path, port: int) -> str:
    """``mosquitto.conf`` of an operator's ``broker`` folder for a trial on this machine: on the loopback alone, started from any folder.

    mosquitto gives root's rights up before it reads the access list, which only its owner can read; here root stays root.
    """
    text = (broker / "mosquitto.conf").read_text(encoding="utf-8").replace(f"listener {port}\n", f"listener {port} 127.0.0.1\n")
    for name in FILES:
        text = text.replace(f" {name}\n", f" {broker.resolve() / name}\n")
    return text + ("user root\n" if os.getuid() == 0 else "")
