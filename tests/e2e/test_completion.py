"""Shell completion, in a real bash: the script that the command installs, sourced and asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import hosfl

BASH = shutil.which("bash")
SHELLS = ("bash", "zsh", "fish")
DIRECTLY = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell that is named, not the one that started the tests


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"), [("hosfl sim", {"simulate"}), ("hosfl re", {"replay", "report"}), ("hosfl export --t", {"--to"})]
)
def test_bash_completes_commands_and_options(words: str, expected: set[str], tmp_path: Path) -> None:
    script = hosfl("--show-completion", "bash", **DIRECTLY)
    assert script.returncode == 0, script.stderr
    (tmp_path / "completion.sh").write_text(script.stdout)
    place = len(words.split()) - 1
    ask = f"source completion.sh; COMP_WORDS=({words}); COMP_CWORD={place}; _hosfl_completion hosfl; echo ${{COMPREPLY[@]}}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = subprocess.run([str(BASH), "-c", ask], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert set(told.stdout.split()) == expected, told.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    told = hosfl("--show-completion", shell, **DIRECTLY)
    assert told.returncode == 0 and f"complete_{shell}" in told.stdout
