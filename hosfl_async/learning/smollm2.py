"""SmolLM2-135M-Instruct (Allal et al., arXiv:2502.02737) as a torch Llama, from the 4-bit file that a public package carries.

The weights are dequantised once and kept beside the fetched file, as transformers would save them: ``config.json``,
``model.safetensors`` (float32, 538 MB) and ``tokenizer.json``. They are 4-bit weights dequantised, not the original ones.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hosfl_async.assets import files_of
from hosfl_async.errors import SettingsError

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WHERE = "task.model.name"

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}
"""The file's names of a Llama's matrices, and transformers'."""


def converted(told: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of the dequantised model; made now if need be. Raises ``SettingsError`` if the file was not fetched."""
    source = files_of("smollm2", _WHERE)
    target = source / "float32"
    if not target.is_dir():
        told("smollm2: dequantising to float32 (once)")
        with tempfile.TemporaryDirectory(dir=source, prefix=".float32-") as made:
            convert(source / GGUF_FILE, Path(made) / "files")
            try:
                (Path(made) / "files").rename(target)
            except OSError:
                if not target.is_dir():  # otherwise somebody else was faster, and theirs is the same
                    raise
    return target


def convert(file: Path, folder: Path) -> None:
    """Write a Llama's GGUF file as a folder that transformers can load."""
    try:
        from gguf import GGUFReader
    except ImportError as problem:
        raise SettingsError(_WHERE, f"it needs gguf: {problem}", mend="pip install 'hosfl-async[models]'") from problem
    from safetensors.numpy import save_file

    reader = GGUFReader(file)
    values = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    config = _config(values)
    folder.mkdir()
    try:
        tensors = {_name(tensor.name): _dequantised(tensor, config) for tensor in reader.tensors}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        _write_tokenizer(values, folder / "tokenizer.json")
    except BaseException:
        shutil.rmtree(folder)
        raise


def _config(values: dict[str, Any]) -> dict[str, Any]:
    def of(key: str) -> Any:
        return values[f"llama.{key}"]

    return {
        "architectures": ["LlamaModel"],
        "model_type": "llama",
        "vocab_size": of("vocab_size"),
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": round(of("attention.layer_norm_rms_epsilon"), 12),
        "rope_parameters": {"rope_type": "default", "rope_theta": of("rope.freq_base")},
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _name(name: str) -> str:
    *block, kind, last = name.split(".")
    return ".".join([*(["layers", block[1]] if block else []), _NAMES[kind], last])


def _dequantised(tensor: Any, config: dict[str, Any]) -> NDArray[np.float32]:
    from gguf.quants import dequantize

    values: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
    if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
        heads = config["num_attention_heads" if ".attn_q." in tensor.name else "num_key_value_heads"]
        # The file pairs neighbouring rows for the rotation, transformers the two halves of a head.
        values = values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
    return np.ascontiguousarray(values, np.float32)


def _write_tokenizer(values: dict[str, Any], path: Path) -> None:
    """Byte-level BPE, digits one by one; the text alone, without marks at its ends."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in zip(tokens, kinds, strict=True) if kind == control])
    tokenizer.save(str(path))
