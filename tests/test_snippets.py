"""The Python on the documents' pages runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from told_commands import DOCUMENTS, ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [str(page.relative_to(ROOT)) for page in DOCUMENTS if BLOCK.search(page.read_text())]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text()
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    found = list(BLOCK.finditer(text))
    assert found
    for block in found:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], page, "exec"), namespace)  # errors name the page's own line
