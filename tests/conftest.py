"""Shared by all tests: helper modules beside this file can be imported, torch computes on one thread as in every host (two threads sum in
another order, so an oracle computed on two differs), programs that tests start can be interrupted even where this one was started in a
shell's background (which ignores interrupts, and hands that on), how hard hypothesis tries is chosen once, and tests that want a real
mosquitto are skipped where there is none, unless HOSFL_REQUIRE_MOSQUITTO says that this must not happen.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from hosfl_async.broker.embedded import find_mosquitto

sys.path.insert(0, str(Path(__file__).parent))
from chromium import Browser, chromium

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_mosquitto() is not None or os.environ.get("HOSFL_REQUIRE_MOSQUITTO"):
        return
    for item in items:
        if item.get_closest_marker("mosquitto"):
            item.add_marker(pytest.mark.skip(reason="no mosquitto on PATH or in /usr/sbin"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
