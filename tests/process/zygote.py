"""Makes ``hosfl`` processes quickly: imports everything once, then forks.

A fresh interpreter needs seconds to import torch, a fork some milliseconds; what runs in the child is the same command, in
a process of its own that can be killed like any other. Reads one JSON object a line (``argv``, ``log``, ``environment``,
``namespace``, ``folder``), answers with ``{"pid": n}``, and tells ``{"pid": n, "code": c}`` when a child has ended (minus the signal's
number if one killed it). The end of its own input is the end of all children.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys

import sklearn.datasets
import torch

import hosfl_async.process
from hosfl_async.cli import app
from hosfl_async.cli.app import guarded

CLONE_NEWNET = 0x40000000
assert sklearn.datasets and hosfl_async.process  # imported for the children


def child(order: dict[str, object]) -> None:
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if order.get("namespace"):
        enter_network(str(order["namespace"]))
    os.chdir(str(order.get("folder") or "."))
    os.environ.update(order.get("environment", {}))  # type: ignore[call-overload]
    sys.argv = ["hosfl", *map(str, order["argv"])]  # type: ignore[call-overload]
    code = 70
    try:
        code = guarded(app)
    finally:
        sys.stderr.flush()
        os._exit(code)


def enter_network(namespace: str) -> None:
    """From here on this process has the network of a namespace that ``ip netns`` made."""
    file = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(file, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"the network namespace {namespace} cannot be entered")
    os.close(file)


def say(**told: int) -> None:
    os.write(1, json.dumps(told).encode() + b"\n")


def reap(*, wait: bool = False) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, 0 if wait else os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        living.discard(pid)
        say(pid=pid, code=os.waitstatus_to_exitcode(status))


torch.set_num_threads(1)
living: set[int] = set()
lines = b""
say(pid=os.getpid())
while True:
    ready, _, _ = select.select([0], [], [], 0.02)
    reap()
    if not ready:
        continue
    received = os.read(0, 65536)
    if not received:
        break
    *whole, lines = (lines + received).split(b"\n")
    for line in whole:
        pid = os.fork()
        if not pid:
            child(json.loads(line))
        living.add(pid)
        say(pid=pid)
for pid in living:
    os.kill(pid, signal.SIGKILL)
reap(wait=True)
