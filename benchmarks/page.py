"""Everything that docs/results.md tells a reader to type, one command after another: what `make results-full` runs beside the studies.

``python -m benchmarks.page --list`` prints the commands: those of benchmarks and of ``hosfl`` that stand in blocks or between backticks, in
the page's order, without the studies, which have a table each, and without those in which something is left to choose (``--seed S``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from benchmarks import ROOT, new_parser

RESULTS = ROOT / "docs/results.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:hosfl (?:simulate|compare|sweep)|python -m benchmarks\.)[^`]*)`")
COMMAND = re.compile(r"hosfl (simulate|compare|sweep) |python -m benchmarks\.")
STUDIES = re.compile(r"python -m benchmarks\.(study|study_pictures|page|NAME)\b")
TO_CHOOSE = re.compile(r"\s\[|\b(N|S|RULES|KEY=VALUE)\b|hosfl \w+ (--set|$)")


def commands(text: str) -> list[str]:
    """What a page's text tells to run, each once."""
    blocks = [block.replace("\\\n", " ") for kind, block in BLOCK.findall(text) if kind == "sh"]
    told = [line.partition("  #")[0] for block in blocks for line in block.splitlines()]
    told += [found.replace("\n", " ") for found in INLINE.findall(BLOCK.sub("", text))]
    whole = (" ".join(one.split()) for one in told)
    return list(dict.fromkeys(one for one in whole if COMMAND.match(one) and not STUDIES.match(one) and not TO_CHOOSE.search(one)))


def main() -> int:
    parser = new_parser(__doc__, as_json=False)
    parser.add_argument("--list", action="store_true", help="print the commands and run none")
    arguments = parser.parse_args()
    told = commands(RESULTS.read_text(encoding="utf-8"))
    if arguments.list or arguments.small:
        print("\n".join(told))
        return 0
    # `python` and `hosfl` of the text are those of the environment that runs this
    environment = os.environ | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))}
    failed = []
    for number, command in enumerate(told, 1):
        print(f"\n== {number} of {len(told)}: {command}", flush=True)
        begun = perf_counter()
        if subprocess.run(command, shell=True, cwd=ROOT, env=environment, check=False).returncode:
            failed.append(command)
        print(f"== {perf_counter() - begun:.0f} s", flush=True)
    if failed:
        print("\nThese failed:\n" + "\n".join(failed), file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
