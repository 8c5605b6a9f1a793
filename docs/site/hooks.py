"""mkdocs hooks: pages of the site that are not files under docs/, and links that leave it.

README, CHANGELOG, CONTRIBUTING and the gallery stay where a reader of the repository looks for them; here they get a place in the site. The
reference is made from the package itself (``generated.py``). A link to a file of the repository that the site does not have, such as a
module, becomes the name of that file. Drawings of states become part of their page, whose colours, light or dark, they take.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "pictures"))
from draw_states import DARK, LIGHT
from generated import PAGES

ROOT = Path(__file__).parents[2]
FROM_ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "scenarios/README.md": "scenarios.md",
    "broker/README.md": "kit-broker.md",
}
"""Documents outside docs/, by their path in the repository: where the site has them."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
DRAWING = re.compile(r'<img alt="([^"]*)" src="([^":]+\.svg)" />')


def on_files(files: Files, config: Any) -> Files:
    """Add the documents from elsewhere and what is generated."""
    for source, page in FROM_ELSEWHERE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    schemes = {"default": LIGHT, "slate": DARK}.items()
    rules = [f'[data-md-color-scheme="{scheme}"] .states {{ {colours} }}\n' for scheme, colours in schemes]
    rules.append((Path(__file__).parent / "site.css").read_text())
    files.append(File.generated(config, "site.css", content="".join(rules)))
    for page, make in PAGES.items():
        files.append(File.generated(config, page, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links, as the repository has them, to where the site has what they point at."""
    own = page.file.src_uri
    source = next((source for source, to in FROM_ELSEWHERE.items() if to == own), f"docs/{own}")
    return LINK.sub(lambda link: _moved(link, source, own, files), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Drawings, as elements of the page; on a phone they are scrolled, before their letters get too small."""

    def element(found: re.Match[str]) -> str:
        svg = Path(config.docs_dir, page.file.src_uri).parent.joinpath(found[2]).read_text()
        return re.sub(r'<svg (.*?viewBox="0 0 (\d+))', rf'<svg aria-label="{found[1]}" style="min-width:calc(\2px*.8)" \1', svg, count=1)

    return DRAWING.sub(element, html)


def _moved(link: re.Match[str], source: str, own: str, files: Files) -> str:
    image, text, target = link.groups()
    path, hash_, anchor = target.partition("#")
    if not path or "://" in target or target.startswith("mailto:"):
        return link[0]
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if wanted == "docs/README.md":
        wanted = "README.md"
    there = FROM_ELSEWHERE.get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else "")
    if there and files.get_file_from_path(there) is not None:
        return f"{image}[{text}]({posixpath.relpath(there, posixpath.dirname(own) or '.')}{hash_}{anchor})"
    if not (ROOT / wanted).exists():
        return link[0]  # broken: the strict build says where
    return text if text.strip("`") == wanted else f"{text} (`{wanted}`)"
