"""Text encoders of transformers' BERT family, cut between two blocks, with a classifier at their end.

The client half is the embeddings and the first blocks, the server half the other blocks, the mean over a sample's tokens and one linear
layer onto the classes. Some parameters are learnt and the others frozen (``task.model.trainable``); low-rank adapters (LoRA,
arXiv:2106.09685) are those of peft. Explicitly:

* Dropout is zero on both sides and both halves are always in evaluation mode: a probe must differ from its anchor by the perturbation only,
  and a repeated step must give the same numbers.
* There are no buffers that learning changes. Nothing is tied: the classifier does not share the embeddings.
* Pretrained values are those of MiniLM-L6, or of a folder that ``save_pretrained`` wrote; a head or pooler in it is left out.
* Frozen parameters of one pretrained model are one copy in memory, however many halves are built from it.

transformers and peft are the extra ``models``.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hosfl_async.assets import files_of
from hosfl_async.errors import SettingsError
from hosfl_async.learning.pretrained import folder_of
from hosfl_async.learning.quantised import with_wanted_matrices
from hosfl_async.learning.randomness import named_key, uniform_stream
from hosfl_async.learning.sequences import PADDING, padded
from hosfl_async.learning.settings import ModelSettings, Trainable
from hosfl_async.learning.split_model import Half, Shape, SplitModel

_ADAPTED: dict[Trainable, str] = {"lora": r".*\.(query|value)", "lora_writers": r".*output\.dense"}
"""The matrices that get an adapter, as regular expressions."""

_LEARNT: dict[Trainable, str] = {
    "all": "",
    "blocks": r"^blocks\.",
    "last_block": r"^blocks\.{last}\.",
    "writers": r"^blocks\..*output\.dense\.",
    "norms": r"^blocks\..*LayerNorm\.",
    "lora": r"\.lora_[AB]\.",
    "lora_writers": r"\.lora_[AB]\.",
}
"""Names of the parameters that are learnt, as regular expressions."""


class ClientBlocks(nn.Module):
    """Token ids (batch, longest), padded -> activations of the tokens that are there, (tokens, hidden)."""

    def __init__(self, embeddings: nn.Module, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.embeddings, self.blocks = embeddings, blocks

    def forward(self, ids: Tensor) -> Tensor:
        present = ids != PADDING
        hidden = self.embeddings(input_ids=ids.clamp(min=0))
        mask = present[:, None, None, :]
        for block in self.blocks:
            hidden = block(hidden, mask)
        packed: Tensor = hidden[present]
        return packed


class ServerBlocks(nn.Module):
    """Activations (tokens, hidden) and lengths (batch,) -> logits (batch, classes)."""

    def __init__(self, blocks: nn.ModuleList, head: nn.Linear) -> None:
        super().__init__()
        self.blocks, self.head = blocks, head

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        hidden, present = padded(rows, lengths)
        mask = present[:, None, None, :]
        for block in self.blocks:
            hidden = block(hidden, mask)
        mean = (hidden * present[:, :, None]).sum(dim=1) / lengths[:, None]
        logits: Tensor = self.head(mean)
        return logits


def build_encoder(settings: ModelSettings, sample_shape: Shape, classes: int, vocabulary: int) -> SplitModel:
    """The encoder that ``settings`` name, for sequences of up to ``sample_shape`` tokens of a ``vocabulary``."""
    needed("transformers")
    if not vocabulary:
        raise SettingsError("task.model.name", f"{settings.name} reads tokens, and these data are none", expected="a model for images")
    bert = _random(settings, sample_shape[0], vocabulary) if settings.name == "encoder" else _pretrained(settings)
    blocks, hidden = list(bert.encoder.layer), bert.config.hidden_size
    if settings.cut_block >= len(blocks):
        expected = f"at most {len(blocks) - 1}, so that a block is left to the server"
        raise SettingsError("task.model.cut_block", f"{settings.name} has {len(blocks)} blocks", expected=expected)
    if sample_shape[0] > bert.config.max_position_embeddings or vocabulary > bert.config.vocab_size:
        raise SettingsError("task.tokens_max", "the texts do not fit the model", expected=f"{bert.config.max_position_embeddings} tokens")
    client = ClientBlocks(bert.embeddings, nn.ModuleList(blocks[: settings.cut_block]))
    server = ServerBlocks(nn.ModuleList(blocks[settings.cut_block :]), nn.Linear(hidden, classes))
    _choose(client, settings, settings.trainable)
    _choose(server, settings, settings.server_trainable)
    server.head.requires_grad_(True)
    server.eval()
    drawn = re.compile(r"\.lora_A\.|^head\." + ("|weight$" if settings.name == "encoder" else ""))
    keep = re.compile("LayerNorm|lora_B")

    def at_random(name: str) -> bool:
        return bool(drawn.search(name)) and not keep.search(name)

    halves = {"client": Half(with_wanted_matrices(client, settings), at_random), "server": Half(server, at_random)}
    return SplitModel(**halves, input_shape=sample_shape, cut_shape=(hidden,), sequences=True)


def _choose(half: nn.Module, settings: ModelSettings, learnt: Trainable) -> None:
    """Put in adapters if wanted, and let exactly the chosen parameters require gradients."""
    blocks = half.get_submodule("blocks")
    if learnt in _ADAPTED:
        needed("peft")
        from peft import LoraConfig, inject_adapter_in_model

        rank, alpha = settings.lora_rank, settings.lora_alpha
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=_ADAPTED[learnt], bias="none"), blocks
        )
    names = re.compile(_LEARNT[learnt].replace("{last}", str(len(list(blocks.children())) - 1)))
    for name, parameter in half.named_parameters():
        parameter.requires_grad_(bool(names.search(name)))


def _pretrained(settings: ModelSettings) -> Any:
    """MiniLM-L6, or the user's own folder, with pretrained values. What a folder holds beside the blocks (a pooler, a head) is left."""
    from transformers import BertModel

    if settings.name == "minilm":
        config, values = _minilm(str(files_of("minilm", "task.model.name")))
    else:
        config, values = _from_folder(str(folder_of(settings)))
    bert = BertModel(_config(**config), add_pooling_layer=False)
    bert.load_state_dict({name: values[name] for name in bert.state_dict()}, assign=True)
    return bert


@lru_cache(maxsize=2)
def _minilm(folder: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and values; read once, and shared by all models that are built from them."""
    from safetensors.torch import load_file

    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text())
    return config, load_file(Path(folder) / "model.safetensors")


@lru_cache(maxsize=2)
def _from_folder(folder: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The same of what ``save_pretrained`` wrote, whatever head the model had."""
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    still: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    read: Any = BertModel.from_pretrained
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it would tell at length that a head is not wanted
    try:
        bert, told = read(folder, add_pooling_layer=False, **still)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        raise SettingsError("task.model.folder", f"{folder} cannot be read: {str(problem).splitlines()[0]}") from problem
    finally:
        logging.set_verbosity(loud)
    if lacking := sorted(told["missing_keys"]):
        expected = "the values of a whole encoder of transformers' BERT family"
        raise SettingsError("task.model.folder", f"{folder} lacks {len(lacking)} tensors, such as {lacking[0]}", expected=expected)
    return bert.config.to_dict(), dict(bert.state_dict())


def _random(settings: ModelSettings, tokens: int, vocabulary: int) -> Any:
    """An encoder whose values are the same in every process; those that are learnt are drawn anew from the run's seed."""
    from transformers import BertModel

    if settings.hidden % settings.heads:
        raise SettingsError(
            "task.model.heads", "it must divide hidden", expected=f"a divisor of {settings.hidden}", found=f"{settings.heads}"
        )
    config = _config(
        vocab_size=vocabulary,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.blocks,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden,
        max_position_embeddings=tokens,
        type_vocab_size=1,
        pad_token_id=None,
    )
    bert = BertModel(config, add_pooling_layer=False)
    stream = uniform_stream(named_key("encoder", 0))
    for name, parameter in bert.named_parameters():
        if "LayerNorm" not in name:
            drawn = (stream(parameter.numel()) * 2 - 1) / parameter.shape[-1] ** 0.5
            parameter.data = torch.from_numpy(drawn).float().view(parameter.shape)
    return bert


def _config(**values: Any) -> Any:
    from transformers import BertConfig

    fixed = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "sdpa"}
    return BertConfig(**(values | fixed))


def needed(package: str) -> None:
    """Raises ``SettingsError``, saying how to install it, if an optional package is not there."""
    try:
        __import__(package)
    except ImportError as problem:
        raise SettingsError("task.model.name", f"it needs {package}: {problem}", mend="pip install 'hosfl-async[models]'") from problem
