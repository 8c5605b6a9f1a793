"""Sentences with labels, as token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hosfl_async.assets import files_of
from hosfl_async.errors import SettingsError
from hosfl_async.learning.pretrained import folder_of
from hosfl_async.learning.randomness import named_key, permutation
from hosfl_async.learning.sequences import as_samples
from hosfl_async.learning.settings import ModelSettings

SNIPPETS_HELD_OUT = 1000
"""Sentences of the fixed test set."""
_RATING_MIN = 0.5
"""Of an absolute mean rating, from 0 to 4: sentences about which the raters were undecided are left out."""


def snippets() -> tuple[list[str], NDArray[np.int64], NDArray[np.bool_]]:
    """VADER movie snippets (Hutto and Gilbert, ICWSM 2014): distinct sentences, 1 for good and 0 for bad, and which are the test set.

    The test set is the same for every seed. Label and order follow from the file alone.
    """
    texts: dict[str, int] = {}
    for line in (files_of("snippets", "task.data") / "movie.tsv").read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= _RATING_MIN:
            texts.setdefault(text.strip(), int(float(rating) > 0))
    held_out = np.zeros(len(texts), bool)
    held_out[permutation(named_key("snippets held out", 0), len(texts))[:SNIPPETS_HELD_OUT]] = True
    return list(texts), np.fromiter(texts.values(), np.int64, len(texts)), held_out


def tokenized(texts: list[str], tokenizer: Path, tokens_max: int) -> tuple[NDArray[np.int32], int]:
    """Token ids (texts, longest), padded, and the size of the vocabulary."""
    try:
        from tokenizers import Tokenizer
    except ImportError as problem:
        raise SettingsError("task.data", f"texts need tokenizers: {problem}", mend="pip install 'hosfl-async[models]'") from problem
    reader = Tokenizer.from_file(str(tokenizer))
    reader.enable_truncation(max_length=tokens_max)
    reader.no_padding()
    return as_samples([encoding.ids for encoding in reader.encode_batch(texts)]), reader.get_vocab_size()


def tokenizer_file(model: ModelSettings) -> Path:
    """The tokenizer whose tokens this model reads; random models read those of MiniLM."""
    if model.name not in ("smollm2", "transformers"):
        return files_of("minilm", "task.model.name") / "tokenizer.json"
    path = folder_of(model) / "tokenizer.json"
    if not path.is_file():
        raise SettingsError("task.model.folder", "texts need its tokenizer", expected="tokenizer.json beside config.json", found=str(path))
    return path
