"""Causal language models cut in two: against transformers' own whole models, for each family; and what a 4-bit file becomes. All small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hosfl_async import jobs
from hosfl_async.assets import CACHE_VARIABLE
from hosfl_async.errors import SettingsError
from hosfl_async.learning import smollm2
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.decoders import FAMILIES, whole_decoder
from hosfl_async.learning.models import build_model
from hosfl_async.learning.sequences import PADDING, as_samples, lengths_of, take
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, ZerothOrderSettings
from hosfl_async.learning.split_model import SplitModel, initial_theta_c, initial_theta_s
from hosfl_async.learning.texts import tokenizer_file
from hosfl_async.messages import StepId

TINY = ModelSettings(name="decoder", blocks=3, hidden=16, heads=2, cut_block=2, lora_rank=2)
TOKENS, VOCABULARY, CLASSES = 12, 32, 4
FAMILY_NAMES = sorted(FAMILIES)


def bound(settings: ModelSettings, seed: int = 0) -> SplitModel:
    model = build_model(settings, (TOKENS,), CLASSES, VOCABULARY)
    model.client.bind(model.client.views(initial_theta_c(model, seed)))
    model.server.bind(model.server.views(initial_theta_s(model, seed)))
    return model


def batch_of(*lengths: int) -> torch.Tensor:
    return torch.from_numpy(as_samples([[(7 * i + 3 * j) % VOCABULARY for j in range(length)] for i, length in enumerate(lengths)]))


def logits(model: SplitModel, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.server.module(model.client.module(batch), lengths_of(batch))


def whole_logits(settings: ModelSettings, head: Any, batch: torch.Tensor) -> torch.Tensor:
    """transformers' unsplit model with its mask over the padding, and the head on each sample's last token."""
    whole, present = whole_decoder(settings, TOKENS, VOCABULARY), batch != PADDING
    with torch.inference_mode():
        hidden = whole(input_ids=batch.clamp(min=0), attention_mask=present.long()).last_hidden_state
        return head(hidden[torch.arange(len(batch)), present.sum(1) - 1])


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_both_halves_together_are_the_whole_model(family: str, cut: int) -> None:
    """With adapters that do nothing yet, the rest being as it is in the whole model."""
    settings = replace(TINY, family=family, cut_block=cut, server_trainable="lora")
    model, level, uneven = bound(settings), batch_of(12, 12), batch_of(5, 12, 1)
    assert torch.equal(logits(model, level), whole_logits(settings, model.server.module.head, level)), "without padding bit for bit"
    expected = whole_logits(settings, model.server.module.head, uneven)
    torch.testing.assert_close(logits(model, uneven), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 1e-3, "all alike: the test shows nothing"


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_shares_a_batch_and_what_comes_later_change_nothing(family: str) -> None:
    model, batch = bound(replace(TINY, family=family)), batch_of(5, 12, 1)
    for index in range(3):
        torch.testing.assert_close(logits(model, batch)[[index]], logits(model, take(batch, [index])))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_exactly_what_is_named_is_learnt_and_the_rest_is_one_copy(family: str) -> None:
    whole = whole_decoder(replace(TINY, family=family), TOKENS, VOCABULARY)
    block = sum(each.numel() for each in getattr(whole, FAMILIES[family].blocks)[0].parameters())
    sizes = {}
    for learnt in ("all", "blocks", "last_block", "writers", "norms", "lora", "lora_writers"):
        model = build_model(replace(TINY, family=family, trainable=learnt), (TOKENS,), CLASSES, VOCABULARY)
        sizes[learnt] = model.client.size
        frozen = {name: each for name, each in model.client.module.named_parameters() if each.numel()}
        ours = {each.data_ptr() for each in whole.parameters()}
        assert all(each.data_ptr() in ours for name, each in frozen.items()), "frozen values are shared, not copied"
    inputs, outputs = (16, 48) if family == "gpt2" else (16, 16)
    adapters = 1 if family == "gpt2" else 2
    assert sizes["blocks"] == 2 * block and sizes["last_block"] == block
    assert sizes["lora"] == 2 * adapters * 2 * (inputs + outputs)
    assert sizes["lora_writers"] == 2 * 2 * (16 + 16 + 64 + 16), "one after the attention, one after the feed-forward"
    positions = TOKENS + 2 if family == "opt" else TOKENS if family == "gpt2" else 0
    assert sizes["all"] == sizes["blocks"] + 16 * (VOCABULARY + positions), "the embeddings; of the last normalisation nothing"
    biases = 16 if family in ("opt", "gpt2") else 0
    assert sizes["writers"] == 2 * (16 * 16 + 64 * 16 + 2 * biases) and 0 < sizes["norms"] < sizes["writers"]


def test_a_folder_of_transformers_is_cut_the_same_way(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, OPTConfig

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 24}
    config = OPTConfig(**sizes, max_position_embeddings=TOKENS, word_embed_proj_dim=8, do_layer_norm_before=False, dropout=0.5)
    torch.manual_seed(3)
    whole = AutoModelForCausalLM.from_config(config).eval()
    assert whole.lm_head.weight is whole.get_input_embeddings().weight, "tied"
    whole.save_pretrained(tmp_path / "model")
    settings = ModelSettings(name="transformers", folder=str(tmp_path / "model"), cut_block=2, lora_rank=2)
    model, batch = bound(settings), batch_of(12, 12)
    assert model.cut_shape == (16,) and model.server.module.head.in_features == 8, "projected before and after the blocks"
    with torch.inference_mode():
        hidden = whole.model(input_ids=batch).last_hidden_state
        expected = model.server.module.head(hidden[:, -1])
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(SettingsError, match=r"texts need its tokenizer"):
        tokenizer_file(settings)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cut_block": 3}, "at most 2, so that a block is left to the server"),
        ({"heads": 3}, "must divide hidden"),
        ({"name": "transformers"}, "there is no model.*config.json"),
    ],
)
def test_what_cannot_be_built_is_told(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        build_model(replace(TINY, **change), (TOKENS,), CLASSES, VOCABULARY)
    with pytest.raises(SettingsError, match="reads tokens, and these data are none"):
        build_model(TINY, (1, 8, 8), CLASSES)


def test_texts_that_are_too_long_and_other_families_are_told(tmp_path: Path) -> None:
    sized = whole_decoder(replace(TINY, family="opt"), TOKENS, VOCABULARY)
    sized.save_pretrained(tmp_path / "opt")
    opt = ModelSettings(name="transformers", folder=str(tmp_path / "opt"), cut_block=1)
    for tokens, vocabulary in ((TOKENS + 1, VOCABULARY), (TOKENS, VOCABULARY + 1)):
        with pytest.raises(SettingsError, match=f"the texts do not fit the model.*found {tokens} of {vocabulary}"):
            build_model(opt, (tokens,), CLASSES, vocabulary)
    from transformers import AutoModel, GPTNeoXConfig

    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    AutoModel.from_config(GPTNeoXConfig(**sizes)).save_pretrained(tmp_path / "other")
    settings = ModelSettings(name="transformers", folder=str(tmp_path / "other"))
    with pytest.raises(SettingsError, match=r"not a family that can be cut.*bert, llama.*found gpt_neox"):
        build_model(settings, (TOKENS,), CLASSES, VOCABULARY)


@pytest.mark.parametrize("shared", [True, False])
def test_training_through_the_learners_learns_and_agrees(shared: bool) -> None:
    """Two clients' steps with a dual each; the aggregator's and the clients' halves follow one log."""
    task = TaskSettings(data="toy_tokens", toy_samples=240, batch_size=16, model=replace(TINY, cut_block=1))
    made = LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(learning_rate=3e-3), seed=0, clients=["a", "b"], shared=shared)
    server = made.server()
    before = server.run(jobs.Evaluate())
    for number in range(1, 41):
        for name in ("a", "b"):
            step = StepId(name, 1, number)
            client = made.client(name)
            sent = client.run(jobs.Forward(step, 0))
            client.run(jobs.Probe(step, 2))
            dual = server.run(jobs.Backward(step, sent.activations, sent.labels)).dual
            assert dual.shape == sent.activations.shape
            assert len(client.run(jobs.Project(step, dual)).projected_gradients) == 2
    after = server.run(jobs.Evaluate())
    assert after.loss < 0.8 * before.loss and after.accuracy > before.accuracy + 0.2


# -- SmolLM2's file -----------------------------------------------------------------------------------


def little_gguf(path: Path) -> dict[str, np.ndarray]:
    """A Llama of one block in llama.cpp's layout; returns its matrices in transformers' layout."""
    from gguf import GGUFWriter
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    width, heads, kv_heads, inner = 32, 2, 1, 64
    writer = GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, 1),
        (writer.add_context_length, 16),
        (writer.add_embedding_length, width),
        (writer.add_feed_forward_length, inner),
        (writer.add_head_count, heads),
        (writer.add_head_count_kv, kv_heads),
        (writer.add_vocab_size, 6),
        (writer.add_rope_freq_base, 1e4),
        (writer.add_layer_norm_rms_eps, 1e-5),
    ):
        add(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<end>", "a", "b", "ab", "1", "Ġ"])
    writer.add_token_types([3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    drawn = np.random.default_rng(0)
    shapes = {"attn_q": (width, width), "attn_k": (width // 2, width), "attn_v": (width // 2, width), "attn_output": (width, width)}
    shapes |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
    theirs = {}
    for name, shape in shapes.items():
        packed = quantize(drawn.normal(size=shape).astype(np.float32), GGMLQuantizationType.Q4_1)
        writer.add_tensor(f"blk.0.{name}.weight", packed, raw_dtype=GGMLQuantizationType.Q4_1)
        theirs[name] = dequantize(packed, GGMLQuantizationType.Q4_1)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.add_tensor("token_embd.weight", drawn.normal(size=(6, width)).astype(np.float32))
    for stage in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        stage()
    return theirs


def test_a_4_bit_file_becomes_a_folder_of_transformers(tmp_path: Path) -> None:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
    from transformers import AutoModel

    theirs = little_gguf(tmp_path / "little.gguf")
    smollm2.convert(tmp_path / "little.gguf", tmp_path / "made")
    values = load_file(tmp_path / "made/model.safetensors")
    query = values["layers.0.self_attn.q_proj.weight"]
    # Rows 0, 1, 2, ... of a head of the file are its pairs' firsts and seconds in turn: 0, 8, 1, 9, ... of transformers' head of 16.
    assert (query[[0, 8, 1, 9, 16, 24]] == theirs["attn_q"][[0, 1, 2, 3, 16, 17]]).all()
    assert (values["layers.0.self_attn.v_proj.weight"] == theirs["attn_v"]).all()
    assert (values["layers.0.mlp.down_proj.weight"] == theirs["ffn_down"]).all()
    model, told = AutoModel.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and model.config.num_key_value_heads == 1
    assert Tokenizer.from_file(str(tmp_path / "made/tokenizer.json")).encode("ab11").ids == [3, 4, 4]


def test_the_model_is_converted_once_and_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "nothing"))
    refused_without_file = pytest.raises(SettingsError, match=r"smollm2 is not on this machine.*hosfl data fetch smollm2")
    with refused_without_file:
        build_model(ModelSettings(name="smollm2"), (TOKENS,), 2, VOCABULARY)
    little_gguf(tmp_path / smollm2.GGUF_FILE)
    monkeypatch.setattr(smollm2, "files_of", lambda name, where: tmp_path)
    said: list[str] = []
    first = smollm2.converted(said.append)
    assert smollm2.converted(said.append) == first and len(said) == 1 and not list(tmp_path.glob(".float32-*"))
