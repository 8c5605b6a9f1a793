"""Shell lines of the documents, of comments, of container files and of messages: each has a kind, and is run, or is told as not run.

Lines that need a broker or a tool's own server are run in the files that ``told_shell.KINDS`` names.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import told_commands
from test_told_commands import wrong_with
from told_files import OWN, READY, ROOT, WITHOUT_MAKE, messages, recipes
from told_shell import DONE_BY_MAKE, HOSFL, KINDS, NO_LINES, NOT_RUN, OTHERS, PAGE, TOLD, is_line, kind_of, of_kind

from hosfl_async import simulate
from hosfl_async.log_store import LogStore
from hosfl_async.tracking import TOOLS

EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
SHORT = "--set aggregator.client_steps=40 --set server.evaluate_every_steps=20 --set expect.accuracy_min=0"
REQUIRED = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def done(*words: str | Path, folder: Path = ROOT, **environment: str) -> str:
    ended = subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, env=WITHOUT_MAKE | environment, check=False)
    assert ended.returncode == 0, (words, ended.stdout, ended.stderr)
    return ended.stdout


def test_every_line_has_a_kind() -> None:
    unknown = [f"{where}: {line}" for where, line in TOLD if not kind_of(line)]
    assert not unknown, f"nothing runs these; tests/told_shell.py wants a kind and a test, or a reason in NOT_RUN: {unknown}"


def test_a_line_of_no_kind_is_seen() -> None:
    for line in ("git clone somewhere", "systemctl restart hosfl", "openssl x509 -in device.pem", "export HOSFL_STATE=state"):
        assert is_line(line) and not kind_of(line)
    for text in ("zeroth_order.rank = 16", "from_version + 1", "hosfl live", "handle(event, now) -> effects", *NO_LINES):
        assert not is_line(text)


@pytest.mark.parametrize("kind", [*KINDS, *NOT_RUN])
def test_every_kind_has_lines_and_a_file(kind: str) -> None:
    """A kind or an excuse that nothing needs any more goes."""
    assert of_kind(kind)
    if kind in KINDS:
        assert f'"{kind}"' in (ROOT / "tests" / KINDS[kind][1]).read_text()


def test_the_page_tells_what_is_run_and_what_is_not() -> None:
    """CONTRIBUTING.md has every file that runs something, with beginnings of lines that it does run; and every excuse."""
    [page] = PAGE.findall((ROOT / "CONTRIBUTING.md").read_text())
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line.startswith("| ")]
    excuses = {begins.strip("`"): why for begins, why in (row for row in rows[1:] if len(row) == 2)}
    assert excuses == {"what begins with": "why"} | NOT_RUN, "CONTRIBUTING.md has a row for each of NOT_RUN in tests/told_shell.py"
    runs = [(begins, file.strip("`")) for begins, _, file in (row for row in rows if len(row) == 3)][1:]
    files = {kind: file for kind, (_, file) in (told_commands.KINDS | KINDS).items()}
    assert set(files.values()) <= {file for _, file in runs} and all((ROOT / "tests" / file).is_file() for _, file in runs)
    for begins, file in runs:
        for beginning in (each for each in re.findall(r"`([^`]+)`", begins) if files.get(each) is None and file in files.values()):
            lines = [line for line in (*told_commands.WORDS, *(line for _, line in TOLD)) if line.startswith(beginning)]
            kinds = {told_commands.kind_of(line) if HOSFL.match(line) else kind_of(line) for line in lines}
            assert file in {files.get(kind) for kind in kinds}, (beginning, kinds)


def test_settings_of_mosquitto_are_no_commands() -> None:
    names = {line.split()[0] for line, what in NO_LINES.items() if what == "a setting of mosquitto"}
    conf = (ROOT / "broker/mosquitto.conf").read_text()
    assert all(re.search(rf"^{name} |`{name} ", conf, re.MULTILINE) for name in names)


def test_messages_name_commands_that_exist() -> None:
    """What an error, a hint or a docstring tells to type; NAME stands for what is put in."""
    found = {}
    for path in ROOT.glob("hosfl_async/**/*.py"):
        told = [line for text in messages(path) for line in re.findall(r"(?:`|: )(hosfl [a-z][^`\[\n]*)", text)]
        found |= {line: path.name for line in told if line not in told_commands.NO_COMMANDS}
    assert len(found) > 20
    assert not {f"{where}: {line}: {wrong}" for line, where in found.items() if (wrong := wrong_with(line))}


@REQUIRED
def test_what_make_types_is_known() -> None:
    """Each target's lines: commands and benchmarks that exist, and shell lines of a kind."""
    assert {re.sub(r"^make (?:PYTHON=\S+ )?", "", line) for line in of_kind("make")} <= {*OTHERS, *DONE_BY_MAKE, "bench", "check", "help"}
    assert all(recipes(target) for target in OTHERS)
    for line in recipes(*OTHERS, *DONE_BY_MAKE, "bench"):
        if loop := re.match(r"for name in ([\w ]+); do", line):
            assert not {name: wrong for name in loop[1].split() if (wrong := wrong_with(f"python -m benchmarks.{name}"))}
        elif HOSFL.match(line):
            assert not wrong_with(line), line
            made_here = line.split()[1] in DONE_BY_MAKE
            assert made_here or line.startswith("python") or line in told_commands.TOLD, f"{line}: no test runs it"
        else:
            assert kind_of(line), line


@REQUIRED
def test_continuous_integration_makes_what_a_change_must_pass() -> None:
    """`make check`, `lint` and `test` are not made here, inside themselves."""
    assert re.search(r"^make check test\b", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert recipes("check") == recipes("lint", "test")
    assert {line for line in recipes("lint") if is_line(line)} <= set(of_kind("checker"))


@REQUIRED
@pytest.mark.parametrize("target", DONE_BY_MAKE)
def test_make_trains(target: str, tmp_path: Path) -> None:
    """By the environment that runs the tests, and for few steps."""
    program = f"BIN={Path(sys.executable).parent}"
    options = f"{SHORT} --out {tmp_path}/run" + (" --time-scale 0.02" if target == "live" else " --no-control")
    done("make", *READY, program, target, f"OPTIONS={options}")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["client_steps"] >= 40 and summary["digests_agree"]


@REQUIRED
def test_make_helps_and_cleans(tmp_path: Path) -> None:
    """In a copy: the tests' own environment stays."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    listed = re.findall(r"^  make (\S+) ", done("make", "help", folder=tmp_path), re.MULTILINE)
    [phony] = re.findall(r"^\.PHONY: (.+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(phony.split()) and "help" in listed
    for name in (".venv", ".mypy_cache", "site", "runs"):
        (tmp_path / name).mkdir()
    done("make", "clean", folder=tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["Makefile", "runs"]


SELECTING = """
import json, sys, pytest

class Selected:
    def pytest_collection_finish(self, session):
        self.names = [item.nodeid for item in session.items]

found = {}
for line, words in json.loads(sys.argv[1]).items():
    selected = Selected()
    code = pytest.main([*words, "--collect-only", "-p", "no:cacheprovider"], plugins=[selected])
    found[line] = [int(code), len(selected.names)]
sys.stderr.write("\\n" + json.dumps(found))
"""


def test_told_tests_are_there() -> None:
    """Each line's own options select something; those without a place take the whole suite, of which one file stands here."""
    told = {}
    for line in of_kind("pytest"):
        words = shlex.split(line)
        variables = [word.partition("=")[0] for word in words if re.match("[A-Z_]+=", word)]
        places = [word for word in words if word.startswith("tests/")]
        read = "".join((ROOT / place).read_text() for place in places or ["tests/conftest.py"] if (ROOT / place).is_file())
        assert all(name in read for name in variables), line
        told[line] = words[words.index("pytest") + 1 :] + ([] if places else ["tests/test_expectations.py"])
    ended = subprocess.run([sys.executable, "-c", SELECTING, json.dumps(told)], cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(ended.stderr.splitlines()[-1])
    assert set(found) == set(told)
    assert all(code == 0 and count for code, count in found.values()), (found, ended.stdout)


def test_told_extras_exist() -> None:
    """Of documents and of messages; that of a tracking tool has the tool's name."""
    names = {name for line in of_kind("requirement") for name in re.findall(r"\[(\w+)\]", line)}
    assert names - {"NAME"} <= EXTRAS and set(TOOLS) <= EXTRAS
    asked = {name for line in of_kind("package") for inside in re.findall(r"\[([\w,]+)\]", line) for name in inside.split(",")}
    assert asked and asked <= EXTRAS


CONTAINERS = sorted(ROOT.glob("agents/*/Containerfile"))


def test_steps_of_a_container_file_install_the_command(tmp_path: Path) -> None:
    """What is copied there is enough for pip to build and install; here into a folder, without dependencies and without a network."""
    steps = {"\n".join(re.findall(r"^(?:COPY|RUN) .+$", path.read_text(), re.MULTILINE)) for path in CONTAINERS}
    assert len(CONTAINERS) == 3 and len(steps) == 1, "all three install the same"
    for names in re.findall(r"^COPY (.+) \S+$", steps.pop(), re.MULTILINE):
        for name in names.split():
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    [line] = [line for line in of_kind("package") if "--editable" not in line]
    assert line in OWN["Containerfile"].findall(CONTAINERS[0].read_text())[0]
    alone = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--target", "installed")
    done(sys.executable, "-m", *shlex.split(line), *alone, folder=tmp_path)
    assert done(sys.executable, "installed/bin/hosfl", "--version", folder=tmp_path, PYTHONPATH=str(tmp_path / "installed")).strip()


def test_paths_of_the_container_lines_exist() -> None:
    """No engine runs them here; but the file is there, and what is run has the name of what is built."""
    built = {line.split()[5]: line.split()[3] for line in of_kind("podman") if line.startswith("podman build -f ")}
    assert sorted(built.values()) == [str(path.relative_to(ROOT)) for path in CONTAINERS]
    assert set(built) == {line.split()[-1] for line in of_kind("podman") if line.startswith("podman run ")}


def test_what_must_be_installed_is_what_continuous_integration_installs() -> None:
    """And the tool that one told line wants, which is skipped on a machine without it."""
    [package] = [line.split()[2] for line in of_kind("apt-get") if " install " in line]
    assert all(f"missing+=({name})" in (ROOT / ".ci/run").read_text() for name in (package, "sqlite3"))


@pytest.mark.parametrize("line", of_kind("import"))
def test_told_names_are_there(line: str) -> None:
    exec(line, {})


@pytest.mark.parametrize("line", of_kind("drawing"))
def test_a_told_script_draws_what_is_there(line: str, tmp_path: Path) -> None:
    """A copy of it, which writes beside itself."""
    _, script = line.split()
    (tmp_path / script).parent.mkdir(parents=True)
    shutil.copy(ROOT / script, tmp_path / script)
    done(sys.executable, script, folder=tmp_path)
    drawn = sorted((tmp_path / script).parent.glob("*.svg"))
    assert drawn and all(path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes() for path in drawn)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3")
@pytest.mark.parametrize("line", of_kind("backup"))
def test_a_log_is_copied_while_it_is_written(line: str, tmp_path: Path) -> None:
    """And a copy that stands alone is a whole log."""
    few = {"aggregator.client_steps": 40, "server.evaluate_every_steps": 20, "expect.accuracy_min": 0.0}
    simulate("quickstart", settings=few, folder=tmp_path / "run", control=False)
    log = tmp_path / "run/log.sqlite"
    writer = sqlite3.connect(log, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE meta SET value = 'never committed'")
    done(*shlex.split(line), folder=log.parent)
    writer.execute("ROLLBACK")
    writer.close()
    copy = LogStore.read(shutil.move(log.parent / "COPY", tmp_path / "log.sqlite"))
    assert copy.entries and copy == LogStore.read(log)
