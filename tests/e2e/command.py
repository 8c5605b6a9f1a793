"""Runs the installed ``hosfl`` command as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCENARIOS = Path(__file__).parents[2] / "scenarios"
HOSFL = Path(sys.executable).parent / "hosfl"


def hosfl(*words: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run to the end; output and errors as text."""
    command = [str(HOSFL), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=300, check=False)


def start(*words: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start and let run; the caller ends it."""
    return subprocess.Popen([str(HOSFL), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
