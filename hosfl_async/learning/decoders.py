"""Causal language models of transformers (Llama, Gemma, OPT and GPT-2 families), cut between two blocks, as classifiers of texts.

The client half is the embeddings and the first blocks; the server half is the other blocks, the model's last normalisation and one linear
layer onto the classes, which reads the last token of each sample. Each half is the family's own transformers module with the rest taken
out of it, so positions, masks and norms are computed by transformers' code and by no copy of it. Explicitly:

* What travels beside the activations: the lengths (two bytes a sample). Padding lies at the end, so in a causal model no token sees it;
  positions count from 0 on both sides; the server half needs no token ids. Learned positions (OPT, GPT-2) are added by the client half.
* Tied embeddings: the client half has the input embeddings; the output matrix that shares them is no part of a classifier, and neither half
  holds it. So nothing is tied across the cut.
* Buffers (rotary frequencies, scales of embeddings) are constants. Dropout is zero, and both halves are always in evaluation mode.
* Frozen parameters of one model are one copy in memory, however many halves are built from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from hosfl_async.errors import SettingsError
from hosfl_async.learning.encoders import needed
from hosfl_async.learning.pretrained import ENCODER_FAMILIES, folder_of
from hosfl_async.learning.quantised import with_wanted_matrices
from hosfl_async.learning.randomness import named_key, uniform_stream
from hosfl_async.learning.sequences import PADDING, padded
from hosfl_async.learning.settings import ModelSettings, Trainable
from hosfl_async.learning.split_model import Half, Shape, SplitModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where a family's modules keep what a cut must know."""

    blocks: str = "layers"
    last_norm: str = "norm"
    tokens: str = "embed_tokens"
    positions: str = ""
    """Learned positions, added to the embeddings."""
    before: str = ""
    """A projection between the embeddings and the first block."""
    after: str = ""
    """A projection after the last normalisation."""
    adapted: str = "(q_proj|v_proj)"
    """Matrices that get an adapter."""
    transposed: bool = False
    """They are stored input first."""
    writers: str = "(o_proj|down_proj)"
    """Matrices whose outputs are added to the stream."""
    norms: str = r"norm\."
    adds_branches: bool = True
    """A branch's output is added to the stream as it is, and not normalised before."""


_LLAMA = Family()
FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": Family(adds_branches=False),
    "gemma3_text": Family(adds_branches=False),
    "opt": Family(
        last_norm="final_layer_norm",
        positions="embed_positions",
        before="project_in",
        after="project_out",
        writers="(out_proj|fc2)",
        norms=r"layer_norm\.",
    ),
    "gpt2": Family(
        blocks="h",
        last_norm="ln_f",
        tokens="wte",
        positions="wpe",
        adapted="c_attn",
        transposed=True,
        writers="c_proj",
        norms=r"ln_\d\.",
    ),
}
"""By transformers' ``model_type``."""


class ClientDecoder(nn.Module):
    """Token ids (batch, longest), padded -> activations of the tokens that are there, (tokens, hidden)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.body(input_ids=ids.clamp(min=0), use_cache=False).last_hidden_state
        packed: Tensor = hidden[ids != PADDING]
        return packed


class ServerDecoder(nn.Module):
    """Activations (tokens, hidden) and lengths (batch,) -> logits (batch, classes), from the last token of each sample."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        hidden, _ = padded(rows, lengths)
        hidden = self.body(inputs_embeds=hidden, use_cache=False).last_hidden_state
        logits: Tensor = self.head(hidden[torch.arange(len(lengths)), lengths - 1])
        return logits


class _Nothing(nn.Module):
    """In place of learned positions where they have been added already."""

    def forward(self, *given: Any, **named: Any) -> Tensor:
        return torch.zeros(())


def build_decoder(settings: ModelSettings, sample_shape: Shape, classes: int, vocabulary: int) -> SplitModel:
    """The causal model that ``settings`` name, for sequences of up to ``sample_shape`` tokens of a ``vocabulary``."""
    needed("transformers")
    if not vocabulary:
        raise SettingsError("task.model.name", f"{settings.name} reads tokens, and these data are none", expected="a model for images")
    whole = whole_decoder(settings, sample_shape[0], vocabulary)
    family, config = FAMILIES[whole.config.model_type], whole.config
    count, longest = config.num_hidden_layers, config.max_position_embeddings
    if settings.cut_block >= count:
        expected = f"at most {count - 1}, so that a block is left to the server"
        raise SettingsError("task.model.cut_block", f"{settings.name} has {count} blocks", expected=expected)
    if sample_shape[0] > longest or vocabulary > config.vocab_size:
        expected = f"{longest} tokens of a vocabulary of {config.vocab_size}"
        raise SettingsError(
            "task.tokens_max", "the texts do not fit the model", expected=expected, found=f"{sample_shape[0]} of {vocabulary}"
        )
    client, server = _client_body(whole, family, settings.cut_block), _server_body(whole, family, settings.cut_block)
    width = config.word_embed_proj_dim if family.after and getattr(server, family.after) is not None else config.hidden_size
    halves = ClientDecoder(client), ServerDecoder(server, nn.Linear(width, classes))
    for half, learnt in zip(halves, (settings.trainable, settings.server_trainable), strict=True):
        _choose(half, family, settings, learnt)
        half.eval()
    halves[1].head.requires_grad_(True)
    drawn = re.compile(r"\.lora_A\.|^head\." + ("|weight$" if settings.name == "decoder" else ""))
    keep = re.compile(rf"lora_B|{family.norms}|{family.last_norm}\.")

    def at_random(name: str) -> bool:
        return bool(drawn.search(name)) and not keep.search(name)

    made = {"client": Half(with_wanted_matrices(halves[0], settings), at_random), "server": Half(halves[1], at_random)}
    return SplitModel(**made, input_shape=sample_shape, cut_shape=(config.hidden_size,), sequences=True)


def whole_decoder(settings: ModelSettings, tokens: int, vocabulary: int) -> Any:
    """The unsplit transformers module that ``settings`` name: one copy, from which halves are taken and which nobody may change."""
    if settings.name == "decoder":
        if settings.hidden % (2 * settings.heads):
            expected = f"an even width for each of {settings.heads} heads"
            raise SettingsError("task.model.heads", "they must divide hidden", expected=expected, found=f"{settings.hidden}")
        return _random(settings.family, settings.blocks, settings.hidden, settings.heads, tokens, vocabulary)
    return _from_folder(str(folder_of(settings)))


def _client_body(whole: Any, family: Family, cut: int) -> Any:
    body = _part(whole, family, slice(0, cut))
    for name in (family.last_norm, family.after):
        if name and getattr(body, name) is not None:
            setattr(body, name, nn.Identity())
    return body


def _server_body(whole: Any, family: Family, cut: int) -> Any:
    body = _part(whole, family, slice(cut, None))
    setattr(body, family.tokens, nn.Identity())
    if family.positions:
        setattr(body, family.positions, _Nothing())
    if family.before:
        setattr(body, family.before, None)
    return body


def _part(whole: Any, family: Family, which: slice) -> Any:
    """The module with these blocks only: structure and buffers of its own, values shared."""
    shared = {id(parameter): nn.Parameter(parameter.data, requires_grad=False) for parameter in whole.parameters()}
    body = deepcopy(whole, shared)
    blocks = getattr(body, family.blocks)[which]
    setattr(body, family.blocks, blocks)
    kinds = getattr(body.config, "layer_types", None)
    body.config.num_hidden_layers = len(blocks)
    if kinds is not None:
        body.config.layer_types = kinds[which]
    return body


def _choose(half: nn.Module, family: Family, settings: ModelSettings, learnt: Trainable) -> None:
    """Put in adapters if wanted, and let exactly the chosen parameters require gradients."""
    blocks = half.get_submodule(f"body.{family.blocks}")
    if learnt in ("lora", "lora_writers"):
        needed("peft")
        from peft import LoraConfig, inject_adapter_in_model

        adapters = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=0.0,
            target_modules=rf".*\.{family.adapted if learnt == 'lora' else family.writers}",
            fan_in_fan_out=family.transposed,
            bias="none",
        )
        inject_adapter_in_model(adapters, blocks)
    within = rf"^body\.{family.blocks}\."
    names: dict[Trainable, str] = {
        "all": "",
        "blocks": within,
        "last_block": rf"{within}{len(list(blocks.children())) - 1}\.",
        "writers": rf"{within}.*{family.writers}\.",
        "norms": rf"{within}.*{family.norms}",
        "lora": r"\.lora_[AB]\.",
        "lora_writers": r"\.lora_[AB]\.",
    }
    for name, parameter in half.named_parameters():
        parameter.requires_grad_(bool(re.search(names[learnt], name)))


@lru_cache(maxsize=2)
def _from_folder(folder: str) -> Any:
    """Read once; all halves of this process share its values."""
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind not in FAMILIES:
            raise SettingsError(
                "task.model.folder", "not a family that can be cut", expected=", ".join((*ENCODER_FAMILIES, *FAMILIES)), found=kind
            )
        still = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
        whole = AutoModel.from_pretrained(folder, **still)
    except (OSError, ValueError, KeyError) as problem:
        raise SettingsError("task.model.folder", f"{folder} cannot be read: {str(problem).splitlines()[0]}") from problem
    return _stilled(whole)


@lru_cache(maxsize=4)
def _random(family: str, blocks: int, hidden: int, heads: int, tokens: int, vocabulary: int) -> Any:
    """A model whose values are the same in every process; those that are learnt are drawn anew from the run's seed."""
    from transformers import AutoConfig, AutoModel

    sizes = {"num_hidden_layers": blocks, "hidden_size": hidden, "num_attention_heads": heads, "max_position_embeddings": tokens}
    wide = {"intermediate_size": 4 * hidden, "ffn_dim": 4 * hidden, "word_embed_proj_dim": hidden, "n_inner": 4 * hidden}
    more = {"num_key_value_heads": heads, "head_dim": hidden // heads, "vocab_size": vocabulary, "pad_token_id": None}
    ends = {"bos_token_id": None, "eos_token_id": None}
    whole = _stilled(AutoModel.from_config(AutoConfig.for_model(family, **sizes, **wide, **more, **ends)))  # type: ignore[no-untyped-call]
    stream = uniform_stream(named_key("decoder", 0))
    for parameter in whole.parameters():
        if parameter.ndim > 1:
            drawn = (stream(parameter.numel()) * 2 - 1) / parameter.shape[-1] ** 0.5
            parameter.data = torch.from_numpy(drawn).float().view(parameter.shape)
    return whole


def _stilled(whole: Any) -> Any:
    """The family's chain of blocks, without dropout, and with a padding token that is a token like any other."""
    body = getattr(whole, "decoder", whole)
    for module in body.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    body.config.pad_token_id = None
    body.requires_grad_(False)
    return body.eval()
