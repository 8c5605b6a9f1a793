"""The public names: all there, nothing more, and no torch before it is needed."""

from __future__ import annotations

import subprocess
import sys

import hosfl_async


def test_every_public_name_is_there() -> None:
    assert sorted(hosfl_async.__all__) == hosfl_async.__all__ == sorted(hosfl_async._HOMES)
    for name in hosfl_async.__all__:
        assert getattr(hosfl_async, name).__name__ == name


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, hosfl_async; from hosfl_async import load_scenario; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
