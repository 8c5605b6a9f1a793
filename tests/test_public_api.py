"""The public names: all there, nothing more, and no torch before it is needed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import hosfl_async


def test_every_public_name_is_there() -> None:
    assert sorted(hosfl_async.__all__) == hosfl_async.__all__ == sorted(hosfl_async._HOMES)
    for name in hosfl_async.__all__:
        assert getattr(hosfl_async, name).__name__ == name


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, hosfl_async; from hosfl_async import load_scenario; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def signatures() -> str:
    """Every public name with its signature, and the public methods of those classes that callers call."""
    lines = []
    for name in hosfl_async.__all__:
        thing = getattr(hosfl_async, name)
        lines.append(f"{name}{inspect.signature(thing)}" if inspect.isfunction(thing) else f"class {name}")
        if name in ("Compared", "Run", "Scenario"):
            lines += [f"    {member}{_shown(getattr(thing, member))}" for member in sorted(vars(thing)) if not member.startswith("_")]
    return "\n".join(lines) + "\n"


def _shown(member: object) -> str:
    return str(inspect.signature(member)) if callable(member) else ""


def test_the_public_interface_is_what_was_agreed() -> None:
    """Who changes it on purpose writes the new text: ``python tests/test_public_api.py > tests/public_api.txt``."""
    assert signatures() == (Path(__file__).parent / "public_api.txt").read_text()


if __name__ == "__main__":
    sys.stdout.write(signatures())
