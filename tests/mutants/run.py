"""Plants each bug of ``catalogue.py`` in a copy of the package, runs the tests that should kill it, and reports who survived.

::

    python tests/mutants/run.py [--only NAME ...] [-j N]

Exit status: 0 all killed, 1 somebody survived, 2 the list has rotted or the tests fail without any bug.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from catalogue import MUTANTS, Mutant

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
PACKAGE = ROOT / "hosfl_async"
TIMEOUT_S = 300
WITHOUT_A_BUG_TIMEOUT_S = 1800
"""A mutant that hangs its tests is killed, too."""
TIMEOUT_WITHOUT_S = 3600
"""For the tests of all mutants in a row, without any bug."""

GUARD = "planted_copy_guard"
"""A pytest plugin in the copy's folder: an installed or checked-out package must not be tested in the copy's place."""


class ListHasRotted(Exception):
    """A mutant's old text does not occur exactly once any more."""


def planted(mutant: Mutant) -> str:
    """The file's text with the bug in it."""
    path = PACKAGE / mutant.file
    text = path.read_text() if path.is_file() else ""
    if text.count(mutant.old) != 1 or mutant.old == mutant.new:
        raise ListHasRotted(f"{mutant.name}: its old text occurs {text.count(mutant.old)} times in {mutant.file}, expected once")
    return text.replace(mutant.old, mutant.new)


def run_tests(mutant: Mutant | None, tests: tuple[str, ...]) -> tuple[int, str]:
    """Exit status and output of pytest on a copy of the package, with the bug planted in it if one is given."""
    timeout_s = TIMEOUT_WITHOUT_S if mutant is None else TIMEOUT_S
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "hosfl_async"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "scenarios", Path(folder) / "scenarios")  # the gallery lies beside the package
        if mutant is not None:
            (copy / mutant.file).write_text(planted(mutant))
        guard = f"import hosfl_async\nassert hosfl_async.__file__.startswith({str(copy)!r}), hosfl_async.__file__\n"
        (Path(folder) / f"{GUARD}.py").write_text(guard)
        # Folder first: ``python -m`` puts the working directory before everything else.
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", GUARD, "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
        command += ["--rootdir", str(ROOT), *(str(TESTS / test) for test in tests)]
        environment = {
            **os.environ,
            "PYTHONPATH": folder,
            "HYPOTHESIS_PROFILE": "default",
            "HOSFL_NO_SHRINK": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment.pop("PYTEST_ADDOPTS", None)
        environment.pop("PYTEST_XDIST_WORKER", None)
        timeout_s = TIMEOUT_S if mutant is not None else WITHOUT_A_BUG_TIMEOUT_S
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return 1, f"no end within {timeout_s} s"
        return done.returncode, done.stdout + done.stderr


def killer(output: str) -> str:
    """The first test that failed."""
    failed = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0].split(" - ")[0].removeprefix("FAILED ").rsplit("tests/", 1)[-1] if failed else output.strip().splitlines()[-1]


def hunt(mutant: Mutant) -> tuple[bool, str]:
    """Whether it was killed, and by whom. Raises ``RuntimeError`` if its tests could not even be collected."""
    status, output = run_tests(mutant, mutant.tests)
    if status not in (0, 1):
        raise RuntimeError(f"{mutant.name}: pytest ended with {status}\n{output}")
    return status == 1, killer(output)


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant bugs and see the tests kill them.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants only")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="mutants at a time (default 1)")
    chosen = parser.parse_args()
    unknown = set(chosen.only or ()) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    mutants = [mutant for mutant in MUTANTS if not chosen.only or mutant.name in chosen.only]
    try:
        for mutant in mutants:
            planted(mutant)
    except ListHasRotted as problem:
        print(problem, file=sys.stderr)
        return 2
    status, output = run_tests(None, tuple(sorted({test for mutant in mutants for test in mutant.tests})))
    if status != 0:
        print(f"the tests fail without any bug\n{output}", file=sys.stderr)
        return 2
    survivors = 0
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for mutant, (killed, by) in zip(mutants, pool.map(hunt, mutants), strict=True):
            survivors += not killed
            print(f"{'killed  ' if killed else 'SURVIVED'}  {mutant.name:38} {by if killed else mutant.why}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
