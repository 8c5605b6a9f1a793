"""Every told ``python -m benchmarks...`` is run, with ``--small``: the same command, to the table that the documents show.

It runs in this process, as ``python -m`` would run it; what a benchmark measures in processes of their own is forked from here, and data
and pretrained models are stand-ins. What stands in the figures is not looked at, but that they are numbers.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from process.deployment import Zygote
from stand_ins import filled
from told_commands import ROOT, of_kind, words_of

import benchmarks
from hosfl_async.assets import CACHE_VARIABLE, CATALOGUE, Asset

WORKERS = r"python -m benchmarks\.peers\.own\w+ "
"""They are told how much they do, and know no options."""
INCOMPLETE = "python -m benchmarks.study"
RESULTS = (ROOT / "docs/results.md").read_text()

ROWS: dict[str, tuple[str, ...]] = {
    "broker": ("iotcore +0 ", "iotcore +1 .*qos1_cpu .*qos1_exchange"),
    "client_process_memory": (".*: floor", "zeroth order +client process", "first order +client process", "ratio", "bound .*kept"),
    "client_step": ("mlp, 784-1024-256", "mlp, 8 layers of 360", r"cnn, 28x28, 16 and 32 channels", r"mlp, 64-8 \(quickstart\)"),
    "cut_traffic": (r"\| float32", r"\| bfloat16", r"\| int8 \| tensor", r"\| int8 \| sample", r"\| int4 \| tensor", "frozen control"),
    "encoder_memory": ("inference", "probes", "skip_feedback", "gated_feedback", "back_propagation", "recomputed"),
    "memory": ("mlp, 64-8: inference .*client step .*back propagation", "cnn, 16x16, 8 channels: inference"),
    "memory_truth": (
        r"\| MiniLM, .*LoRA \|",
        r"\| MiniLM, .*LoRA of writers \|",
        r"\| MiniLM, .*all \|",
        r"\| SmolLM2, .*LoRA \|",
        r"\| SmolLM2, .*LoRA of writers \|",
        r"\| SmolLM2, .*all \|",
        r"\| EfficientNet",
    ),
    "page --list": ("hosfl compare ", "python -m benchmarks.cut_traffic ", "python -m benchmarks.reduced_precision "),
    "page": ("hosfl compare ", "python -m benchmarks.cut_traffic "),
    "peers": ("ours updates", "ours, whole model updates"),
    "own_worker": ('{"updates"',),
    "own_whole_worker": ('{"updates"',),
    "perturbation": ("520 parameters", "1,000,000 parameters", "10,000,000 parameters"),
    "reduced_precision": ("together +difference_max", "float32 +seconds", "all bfloat16 +seconds", "bfloat16 +seconds", "int8 +seconds"),
    "scale": ("clients", "client_steps", "wall_time_s", "cpu_ms_per_client_step", "peak_rss_bytes", "bytes_per_client"),
    "sign_rank": tuple(
        rf"{kind}, rate {rate} "
        for rate in (0.05, 0.2, 0.5)
        for kind in ("rank 1", "rank 4", r"rank 16 \(default\)", "a sign for each weight")
    ),
    "simulator": ("100 clients: .* events/s", "20 clients: .* events per client step", "memory per client"),
    "skip_feedback": ("frozen", "skip_lora", "first_lora", "skip_writers", "first_writers"),
    "skip_feedback --falling": (
        *("frozen", "hosfl", "hosfl_independent", "hosfl_many", "hosfl_norms", "skip_norms", "first_norms"),
        *("last_writer", "skip_writers", "first_lora", "first_writers", "hosfl_blocks", "first_blocks"),
    ),
    "skip_feedback --forwards": (
        *("frozen +1.0 +12 ", "hosfl +6.0 +3 ", "hosfl_many +21.0 +3 ", "last_writer +2.2 +6 "),
        *("skip_writers +2.5 +6 ", "first_lora +3.0 +3 ", "first_writers +3.0 +3 "),
    ),
    "skip_feedback --angles": ("hosfl:", "skip_lora:", "gated_lora:", "skip_writers:", "gated_writers:"),
    "study": (r"\| .*frozen client \|",),
    "study_pictures": ("bytes.png +staleness-sweep.png",),
    "study --list": ("activities ", "bytes_digits ", "minilm_fleet ", "staleness_rules ", "staleness_sweep "),
    "throughput": ("scalars of a step", "activations, 4 KiB", "activations, 64 KiB", "activations, 250 KiB", "activations, 1 MiB"),
    "variance": ("plain, P = 5 ", "memory, P = 5 "),
    "variance --error": ("plain, P = 1 .*expected", "antithetic, P = 5 .*expected", "orthogonal, P = 40 .*expected"),
}
"""How the lines begin that a benchmark prints; figures follow."""

OPTIONS_WITH_ROWS = ("--angles", "--forwards", "--falling", "--list", "--error")
"""The first of these that a command has chooses among its benchmark's rows."""

TOLD_WITH = {"cut_traffic": 2, "memory_truth": 1}
"""Those whose printed table docs/results.md has as it stands, and how many cells name a row."""


def small(command: str) -> str:
    """The same command in small; over two processes studies run in test_sweep.py."""
    return command if re.match(WORKERS, command) else command.replace(" -j 2", " -j 1") + " --small"


def name_of(command: str) -> str:
    return words_of(command)[2].rpartition(".")[2]


def prints_json(command: str) -> bool:
    return "--json" in command and name_of(command) != "variance"


COMMANDS = [
    pytest.param(command, marks=pytest.mark.mosquitto if name_of(command) == "throughput" else (), id=command.removeprefix("python -m "))
    for command in sorted({small(command) for command in of_kind("benchmark") if command != INCOMPLETE})
]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Asset]]:
    import peft  # noqa: F401 (once, not in every child)
    from transformers import AutoModel  # noqa: F401

    cache = tmp_path_factory.mktemp("cache")
    return cache, filled(cache)


@pytest.fixture
def place(assets: tuple[Path, dict[str, Asset]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder; everything that can be fetched is there, and processes need no seconds to begin."""
    cache, entries = assets
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    for name, asset in entries.items():
        monkeypatch.setitem(CATALOGUE, name, asset)
    monkeypatch.setattr(benchmarks, "in_own_process", forked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs/pictures").mkdir(parents=True)
    gc.freeze()  # who measures memory collects garbage again and again, and looks through no more than its own
    yield tmp_path
    gc.unfreeze()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Agents of the deployment that is measured are forked from one process, too."""
    maker = Zygote()
    yield maker
    maker.close()


class OfZygote:
    """As much of a ``Popen`` as the benchmark asks."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote, self.pid = zygote, pid

    def poll(self) -> int | None:
        return self.wait() if self._zygote.ended(self.pid) else None

    def wait(self) -> int:
        return self._zygote.code(self.pid)

    def kill(self) -> None:
        if not self._zygote.ended(self.pid):
            os.kill(self.pid, signal.SIGKILL)


def run(*words: str) -> int:
    """As ``python -m`` runs them; the exit code."""
    argv, sys.argv = sys.argv, [*words]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*prior to execution of", RuntimeWarning)  # other tests have imported it
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = argv
    return 0


def forked(*words: str) -> Any:
    """``in_own_process``, without the seconds that a fresh interpreter needs to import everything."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 70
        try:
            with os.fdopen(write, "w") as out, redirect_stdout(out):
                try:
                    code = run(*words)
                except BaseException:
                    traceback.print_exc(file=out)
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, (words, told)
    return json.loads(told)


def cells(lines: list[str]) -> list[list[str]]:
    """Of a table in Markdown, the heading first."""
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if not line.startswith("|---")]


def told_table(mark: str) -> list[list[str]]:
    """The first table of docs/results.md below ``mark``."""
    lines = RESULTS.partition(mark)[2].splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("| "))
    return cells([*takewhile(lambda line: line.startswith("|"), lines[first:])])


def printed_tables(out: str) -> list[list[list[str]]]:
    return [cells(block.splitlines()) for block in re.findall(r"(?:^\|.*\n)+", out, re.MULTILINE)]


def numbers_in(found: Any) -> list[float]:
    """All that are somewhere in it; a truth is none."""
    if isinstance(found, dict | list):
        return [number for each in (found.values() if isinstance(found, dict) else found) for number in numbers_in(each)]
    return [found] if isinstance(found, int | float) and not isinstance(found, bool) else []


def check_json(out: str) -> None:
    """One object, or one for each run."""
    try:
        found = json.loads(out)
    except json.JSONDecodeError:
        found = [json.loads(line) for line in out.splitlines()]
    numbers = numbers_in(found)
    assert numbers and all(map(math.isfinite, numbers)), out


def check_rows(command: str, out: str) -> None:
    name = name_of(command)
    rows = ROWS.get(next((f"{name} {option}" for option in OPTIONS_WITH_ROWS if option in command), name), ())
    assert rows, f"{name}: what it prints must be told in ROWS"
    for row in rows:
        lines = [line.strip() for line in out.splitlines() if re.match(row, line.strip())]
        assert lines and (name == "study_pictures" or all(re.search(r"\d", line) for line in lines)), (row, out)
    assert not re.search(r"\b(nan|inf|None)\b", out), out


def check_tables(command: str, out: str) -> None:
    """Where the documents show a table as it was printed, this one has its heading and its rows."""
    name = name_of(command)
    names = [word for word in words_of(command)[3:] if re.fullmatch("[a-z_]{3,}", word)] if name == "study" else []
    told = [told_table(f"<!-- study: {study} -->") for study in names]
    if name in TOLD_WITH and f"`{command.removesuffix(' --small')}`" in RESULTS:
        told = [told_table(f"`{command.removesuffix(' --small')}`")]
    printed = printed_tables(out)
    if told:
        assert [table[0] for table in printed] == [table[0] for table in told]
    for mine, theirs in zip(printed, told, strict=bool(told)):
        named = TOLD_WITH.get(name) or mine[0].index("setting") + 1
        first = [row for row in theirs[1:] if row[: named - 1] == theirs[1][: named - 1]] if name == "study" else theirs[1:]
        assert [row[:named] for row in mine[1:]] == [row[:named] for row in first]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_told_benchmark_runs(
    command: str,
    place: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name_of(command) == "client_process_memory":
        maker = request.getfixturevalue("zygote")
        monkeypatch.setattr(benchmarks, "start_hosfl", lambda *words, log: OfZygote(maker, maker.start(*words, log=log)))
    documents = {path: path.stat().st_mtime_ns for path in (ROOT / "docs").rglob("*")}
    assert run(*words_of(command)[2:]) == 0, capsys.readouterr()
    told = capsys.readouterr()
    if prints_json(command):
        check_json(told.out)
    else:
        check_rows(command, told.out)
        check_tables(command, told.out)
    for option, file in re.findall(r"--(picture|json) (\S+\.png|FILE)", command):
        assert (place / file).stat().st_size > 100, option
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "docs").rglob("*")} == documents, "--small writes no document"


def test_what_is_told_without_its_name_asks_for_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words_of(INCOMPLETE)[2:]) == 2
    assert "name a study" in capsys.readouterr().err


def test_every_benchmark_is_told_and_prints_its_table() -> None:
    files = {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")} | {"peers"}
    assert files == {name_of(command) for command in of_kind("benchmark") if not prints_json(command)} - {"own_worker", "own_whole_worker"}


def test_a_command_that_cannot_be_run_is_seen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("benchmarks.scale", "--client-number", "3", "--small") == 2
    with pytest.raises(ImportError):
        run("benchmarks.nothing")
    with pytest.raises(AssertionError):
        check_rows("python -m benchmarks.scale", "clients 20\nclient_steps\n")
    with pytest.raises(AssertionError):
        check_rows("python -m benchmarks.variance", "plain, P = 5  nan 3\nmemory, P = 5  2\n")
    with pytest.raises(AssertionError):
        check_json('{"seconds": NaN}')
    with pytest.raises(AssertionError):
        check_tables("python -m benchmarks.study activities --small", "| setting | other |\n|---|---|\n| a | 1 |\n")


def test_a_process_of_its_own_and_a_command_under_way(tmp_path: Path) -> None:
    """The real ones, once."""
    assert benchmarks.in_own_process("benchmarks.peers.own_worker", "20", "200", "10")["updates"] == 200
    with pytest.raises(subprocess.CalledProcessError):
        benchmarks.in_own_process("benchmarks.peers.own_worker", "20")
    started = benchmarks.start_hosfl("--version", log=tmp_path / "log")
    assert started.wait() == 0 and re.search(r"\d+\.\d+", (tmp_path / "log").read_text())
