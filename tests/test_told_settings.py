"""Settings that the documents show: every `toml` block is loaded by what reads such a file, and every ``key = value`` can be set.

Blocks that are scenarios, or parts of one, are trained for a few steps. The tutorial's are written and run by ``test_told_commands.py``.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from told_commands import DOCUMENTS
from told_files import FENCED, ROOT, Told, markdown

from hosfl_async import load_scenario, simulate
from hosfl_async.process import load_process_settings
from hosfl_async.process.settings import ProcessSettings, scenario_for
from hosfl_async.scenario.loading import find_problems
from hosfl_async.scenario.sweeping import sweep_points

FEW = {"aggregator.client_steps": 20, "server.evaluate_every_steps": 10, "expect": {}}
MY_TASK = """
import torch

def samples(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(400) % 4
    return torch.randn(400, 1, 8, 8, generator=generator) + labels.reshape(-1, 1, 1, 1), labels

def network(sample_shape, classes):
    from collections import OrderedDict
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, classes)]
    return torch.nn.Sequential(OrderedDict((f"layer{number}", layer) for number, layer in enumerate(layers)))
"""
"""What docs/data.md asks of ``my_task.py``."""


def told() -> list[Told]:
    """Blocks, but for those that the tutorial writes to files."""
    blocks = [(path, block) for path in DOCUMENTS for kind, block in FENCED.findall(path.read_text()) if kind == "toml"]
    return [Told(str(path.relative_to(ROOT)), block) for path, block in blocks if not re.match(r"# \S+\.toml:", block)]


def write_pictures(folder: Path) -> None:
    """`photos` as docs/data.md has them: a folder of images for each class."""
    random = np.random.default_rng(0)
    for name, number in product(("ant", "bee"), range(40)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f"{number}.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_task.py").write_text(MY_TASK)
    write_pictures(tmp_path / "photos")
    for source, name in (("quickstart", "quickstart"), ("devices", "scenario")):
        (tmp_path / f"{name}.toml").write_text((ROOT / f"scenarios/{source}.toml").read_text())
    return tmp_path


@pytest.mark.parametrize("block", told(), ids=lambda block: f"{block.where}: {' '.join(block.line.split())[:30]}")
def test_a_told_block_is_read_and_run(block: Told, place: Path) -> None:
    """By its keys it is a sweep, an agent's settings, or what a scenario changes."""
    file, tables = place / "told.toml", tomllib.loads(block.line)
    if "state" in tables:
        file.write_text(block.line)
        settings = load_process_settings(file, "client")
        assert scenario_for(settings).name == "devices" and settings.name == tables["name"]
    elif "sweep" in tables:
        file.write_text(block.line)
        lists = [value for key, value in tables["sweep"].items() if key != "seeds"]
        assert len(sweep_points(file)) == tables["sweep"]["seeds"] * np.prod([len(each) for each in lists])
    else:
        file.write_text(f'extends = "quickstart"\n{block.line}')
        assert load_scenario(file).task, "as it is told"
        fewer = {"fleet_size": 40} if "fleet_size" in tables else {}
        run = simulate(load_scenario(file, FEW | fewer), folder=place / "run", control=False)
        assert run.summary.client_steps >= FEW["aggregator.client_steps"] and run.summary.digests_agree


BASES = ("quickstart", "byzantine", "minilm_skip_feedback", "minilm_snippets", "watch")
TABLES = ("", "task.", "task.model.")
"""A sentence about data or models leaves their tables out."""
OTHERS = {
    "key.path": "a form",
    "extends": "read from a file only, where every scenario that extends another has it",
}
CHOICES = {"n": "2", "J": "0.1"}
"""What stands for a number, and a number."""


def told_settings() -> list[Told]:
    """``key = value`` and ``--set key=value`` between backticks; what is no value in TOML is a formula."""
    found = []
    for path in DOCUMENTS:
        for line in markdown(path.read_text()):
            one = re.fullmatch(r"([a-z]\w*(?:\.\w+)*) = (.+)", line)
            pairs = [f"{one[1]}={one[2]}"] if one else [word for word in shlex.split(line) if "=" in word] if line[:6] == "--set " else []
            for pair in pairs:
                key, _, value = pair.partition("=")
                value = CHOICES.get(value, value)
                if line.startswith("--set ") or not is_formula(value):
                    found.append(Told(str(path.relative_to(ROOT)), f"{key}={value}"))
    return found


def is_formula(value: str) -> bool:
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return True
    return False


def can_be_set(pair: str) -> bool:
    """In one of the scenarios, or in an agent's settings."""
    key = pair.partition("=")[0]
    table, _, inner = key.partition(".")
    fields = ProcessSettings.model_fields
    agents = table in fields and (not inner or inner in getattr(fields[table].annotation, "model_fields", {}))
    return agents or key in OTHERS or any(not find_problems(base, [f"{prefix}{pair}"]) for base, prefix in product(BASES, TABLES))


def test_told_settings_can_be_set() -> None:
    found = told_settings()
    assert len(found) > 40
    assert not {f"{where}: {pair}" for where, pair in found if not can_be_set(pair)}
    assert not can_be_set("zeroth_order.feedback=none_such") and not can_be_set("location=median")
    assert all(any(pair.startswith(f"{key}=") for _, pair in found) for key in OTHERS)
