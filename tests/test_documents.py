"""What the documents point at exists: files, make targets, settings, messages. And nothing committed names somebody's machine."""

from __future__ import annotations

import re
import runpy
import subprocess
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest

from hosfl_async import messages
from hosfl_async.agents import cut_step
from hosfl_async.agents.edge_client import TRANSITIONS
from hosfl_async.agents.membership import FATES
from hosfl_async.report import Summary
from hosfl_async.scenario import schema
from hosfl_async.scenario.schema import type_name

ROOT = Path(__file__).parent.parent
COMMITTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
DOCUMENTS = [ROOT / name for name in COMMITTED if name.endswith(".md") and (ROOT / name).exists()]

LINK = re.compile(r"\]\(([^)\s]+)\)")
MAKE = re.compile(r"`make ([a-z]+)`|^make ([a-z]+)\b", re.MULTILINE)
SETTING = re.compile(r"`([a-z_]+)\.([a-z_]+)`")
FOREIGN = re.compile(
    r"/(?:home|Users|root|opt|work)/\w"  # somebody's directories
    r"|(?:index-url|find-links)\s*[=:]"  # where somebody's packages come from
    r"|\b(?:pypi\.org|files\.pythonhosted\.org|download\.pytorch\.org)\b"
)

pytestmark = pytest.mark.skipif(len(DOCUMENTS) == 0, reason="not a git checkout")


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(document: Path) -> None:
    targets = [unquote(target.partition("#")[0]) for target in LINK.findall(document.read_text()) if "://" not in target]
    broken = [target for target in targets if target and not (document.parent / target).exists()]
    assert not broken


def test_named_make_targets_exist() -> None:
    exist = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {first or second for document in DOCUMENTS for first, second in MAKE.findall(document.read_text())}
    assert {"simulate", "live", "test", "check", "bench", "soak"} <= exist
    assert named <= exist


def test_named_settings_exist() -> None:
    document = schema()
    tables = {name: document["$defs"].get(type_name(node), {}).get("properties", {}) for name, node in document["properties"].items()}
    named = {pair for path in DOCUMENTS for pair in SETTING.findall(path.read_text()) if tables.get(pair[0])}
    assert named
    assert not {f"{table}.{key}" for table, key in named if key not in tables[table] and key != "py"}


def test_protocol_names_every_message_in_its_inbox() -> None:
    protocol = (ROOT / "docs/protocol.md").read_text()
    sections = re.split(r"^\| to the ", protocol, flags=re.MULTILINE)[1:]
    inboxes = {"edge client": messages.EdgeClientInbox, "split server": messages.SplitServerInbox, "aggregator": messages.AggregatorInbox}
    for (name, inbox), section in zip(inboxes.items(), sections, strict=True):
        assert section.startswith(name)
        table = section.split("\n\n")[0]
        rows = [row.split("|")[1] for row in table.split("\n")[2:]]
        assert set(re.findall(r"`(\w+)`", " ".join(rows))) == {kind.__name__ for kind in inbox.__args__}


def test_protocol_names_every_refusal() -> None:
    protocol = (ROOT / "docs/protocol.md").read_text()
    table = protocol.split("## What each refusal means\n")[1].split("\n\n")[0]
    told: dict[str, set[str]] = {}
    kind = ""
    for row in table.split("\n")[2:]:
        first, reason = row.split("|")[1:3]
        kind = first.strip(" `") or kind
        told.setdefault(kind, set()).add(reason.split("`")[1])
    for refusal in (messages.JoinRefused, messages.DualRefused, messages.Refused):
        [reason] = [field for field in msgspec.structs.fields(refusal) if field.name == "reason"]
        assert told[refusal.__name__] == set(reason.type.__args__)


def test_nothing_committed_names_a_machine() -> None:
    named = {
        f"{name}: {found[0]}"
        for name in COMMITTED
        if name and name != "tests/test_documents.py" and (ROOT / name).is_file() and (found := FOREIGN.search(text_of(ROOT / name)))
    }
    assert not named


def test_summary_is_documented_field_by_field() -> None:
    table = (ROOT / "docs/summary.md").read_text().split("## Bytes")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [field.name for field in msgspec.structs.fields(Summary)]


@pytest.mark.parametrize(("name", "table"), [("edge-client", TRANSITIONS), ("cut-step", cut_step.TRANSITIONS), ("contribution", FATES)])
def test_the_picture_of_the_phases_is_that_of_the_table(name: str, table: dict[StrEnum, frozenset[StrEnum]]) -> None:
    """Who changes a table draws it anew: ``python docs/pictures/draw_states.py``."""
    script = runpy.run_path(str(ROOT / "docs/pictures/draw_states.py"))
    picture = (ROOT / f"docs/pictures/{name}.svg").read_text()
    assert picture == script["drawn"](script["DRAWINGS"][name])
    shown = set(re.findall(r'data-way="([a-z ,]+)-([a-z ,]+)"', picture))
    assert shown == {(here.value, there.value) for here, theres in table.items() for there in theres}
