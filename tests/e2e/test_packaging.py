"""The wheel and the sdist, each installed in an environment of its own, run the quickstart far from the checkout.

What the package needs comes from the environment that runs the tests: nothing is fetched, and torch is not installed twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE = "import hosfl_async, sys; sys.exit(not hosfl_async.__file__.startswith(sys.prefix))"
SHORT = ("--set", "aggregator.client_steps=60", "--set", "expect.accuracy_min=0", "--no-control", "--json", "--out", "run")


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["sdist", pytest.param("wheel", marks=pytest.mark.soak)])  # pip makes a wheel of the sdist: both, in one
def test_what_is_built_runs_the_quickstart(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="builds with the installed hatchling; make installs it")
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", tmp_path / "dist", cwd=ROOT)
    [archive] = (tmp_path / "dist").iterdir()
    venv.create(tmp_path / "clean", with_pip=False)
    python = tmp_path / "clean/bin/python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # Behind the new environment's own packages, as plain paths: .pth files there, such as that of the checkout, are not read.
    behind = [path for path in sys.path if path.endswith("-packages")] or [sysconfig.get_path("purelib")]
    (packages / "behind.pth").write_text("\n".join(behind))
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", archive, cwd=tmp_path)
    run(python, "-c", ALONE, cwd=tmp_path)
    hosfl = tmp_path / "clean/bin/hosfl"
    for name in ("hosfl", "hosfl-async"):  # the second is what `pipx run` looks for
        assert run(hosfl.with_name(name), "--version", cwd=tmp_path).split()[1] == version("hosfl-async")
    summary = json.loads(run(hosfl, "simulate", "quickstart", *SHORT, cwd=tmp_path))
    assert summary == json.loads((tmp_path / "run/summary.json").read_text())
