"""Text encoders cut in two: against transformers' own whole model, and through the learners against the oracle. Small and random."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_learners import FIRST, Run, refused
from tokenizers import Tokenizer, models, pre_tokenizers

from hosfl_async import jobs
from hosfl_async.errors import SettingsError
from hosfl_async.learning import encoders, texts
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.data import load_dataset
from hosfl_async.learning.directions import perturbed_floats
from hosfl_async.learning.first_order import ServerTrainer, client_gradient
from hosfl_async.learning.flops import step_cost
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import signs
from hosfl_async.learning.reference import Reference, scheduled
from hosfl_async.learning.sequences import PADDING, as_bytes, as_samples, from_bytes, lengths_of, padded, take
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, Trainable, ZerothOrderSettings
from hosfl_async.learning.split_model import SplitModel, initial_theta_c, initial_theta_s
from hosfl_async.learning.zeroth_order import forward
from hosfl_async.messages import StepId

TINY = ModelSettings(name="encoder", blocks=3, hidden=16, heads=2, cut_block=2, lora_rank=2)
TASK = TaskSettings(data="toy_tokens", toy_samples=240, batch_size=8, model=TINY)
TOKENS, VOCABULARY, CLASSES = 12, 32, 4
CLIENTS = ["client-0", "client-1", "client-2", "client-10"]
BLOCK = 4 * (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16) + 4 * 16
"""Parameters of one block: query, key, value and output; feed-forward there and back; two normalisations."""


def built(settings: ModelSettings = TINY) -> SplitModel:
    return build_model(settings, (TOKENS,), CLASSES, VOCABULARY)


def bound(model: SplitModel, seed: int = 0) -> SplitModel:
    model.client.bind(model.client.views(initial_theta_c(model, seed)))
    model.server.bind(model.server.views(initial_theta_s(model, seed)))
    return model


def batch_of(*lengths: int) -> torch.Tensor:
    rows = [[(7 * i + 3 * j) % VOCABULARY for j in range(length)] for i, length in enumerate(lengths)]
    return torch.from_numpy(as_samples(rows))


def logits(model: SplitModel, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.server.module(model.client.module(batch), lengths_of(batch))


# -- batches of sequences -----------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), min_size=1, max_size=6))
def test_rows_without_padding_come_back_where_they_were(rows: list[list[int]]) -> None:
    batch = take(torch.from_numpy(as_samples(rows)), slice(None))
    lengths, present = lengths_of(batch), batch != PADDING
    assert lengths.tolist() == [len(row) for row in rows]
    assert (from_bytes(as_bytes(lengths)) == lengths).all()
    packed = batch[present].float().unsqueeze(1)
    assert packed.flatten().tolist() == [float(token) for row in rows for token in row]
    laid_out, again = padded(packed, lengths)
    assert (again == present).all()
    assert (laid_out[again].flatten() == packed.flatten()).all() and not laid_out[~again].any()


def test_a_batch_is_as_long_as_its_longest_sample() -> None:
    samples = batch_of(3, 9, 1, 4)
    assert take(samples, [0, 3]).shape == (2, 4)
    assert take(torch.zeros(5, 3), [0, 3]).shape == (2, 3)


# -- the model ----------------------------------------------------------------------------------------


def test_both_halves_together_are_the_whole_encoder() -> None:
    model, batch = bound(built(replace(TINY, trainable="all"))), batch_of(5, 12, 1)
    whole = encoders._random(TINY, TOKENS, VOCABULARY).eval()
    whole.embeddings.load_state_dict(model.client.module.embeddings.state_dict())
    blocks = [*model.client.module.blocks, *model.server.module.blocks]
    for block, same in zip(whole.encoder.layer, blocks, strict=True):
        block.load_state_dict(same.state_dict())
    present = (batch != PADDING).long()
    with torch.inference_mode():
        hidden = whole(input_ids=batch.clamp(min=0), attention_mask=present).last_hidden_state
        mean = (hidden * present[:, :, None]).sum(1) / present.sum(1, keepdim=True)
        expected = model.server.module.head(mean)
    torch.testing.assert_close(logits(model, batch), expected)


def a_folder_of_bert(folder: Path) -> Any:
    """What a user has fine-tuned or fetched: BERT with a head of its own, dropout, and token types."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(3)
    whole = BertForSequenceClassification(BertConfig(**sizes, max_position_embeddings=TOKENS, hidden_dropout_prob=0.5)).eval()
    whole.save_pretrained(folder)
    return whole


def test_a_folder_of_bert_is_cut_the_same_way(tmp_path: Path) -> None:
    whole = a_folder_of_bert(tmp_path / "bert").bert
    settings = ModelSettings(name="transformers", folder=str(tmp_path / "bert"), cut_block=2, lora_rank=2)
    model, batch = bound(built(settings)), batch_of(5, 12, 1)
    present = (batch != PADDING).long()
    with torch.inference_mode():
        hidden = whole(input_ids=batch.clamp(min=0), attention_mask=present).last_hidden_state
        expected = model.server.module.head((hidden * present[:, :, None]).sum(1) / present.sum(1, keepdim=True))
    torch.testing.assert_close(logits(model, batch), expected)
    assert model.client.size == 2 * 2 * (2 * 16 * 2), "query and value adapters of two blocks"
    again = built(settings)
    frozen = [half.module.get_submodule("blocks.0.output.dense").weight.data_ptr() for half in (model.client, again.client)]
    assert frozen[0] == frozen[1], "one copy of what is frozen"


def test_a_folder_of_bert_without_a_tensor_is_told(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    a_folder_of_bert(tmp_path)
    values = load_file(tmp_path / "model.safetensors")
    del values["bert.encoder.layer.1.output.dense.weight"]
    save_file(values, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = ModelSettings(name="transformers", folder=str(tmp_path))
    with pytest.raises(SettingsError, match=r"task.model.folder.*lacks 1 tensors, such as encoder.layer.1.output.dense.weight"):
        built(settings)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    encoders._from_folder.cache_clear()
    with pytest.raises(SettingsError, match=r"task.model.folder.*cannot be read"):
        built(settings)


def test_what_shares_a_batch_changes_nothing() -> None:
    model, batch = bound(built()), batch_of(5, 12, 1)
    for index in range(3):
        torch.testing.assert_close(logits(model, batch)[[index]], logits(model, take(batch, [index])))


SIZES: dict[Trainable, int] = {
    "all": (VOCABULARY + TOKENS + 1 + 2) * 16 + 2 * BLOCK,
    "blocks": 2 * BLOCK,
    "last_block": BLOCK,
    "writers": 2 * (16 * 16 + 16 + 64 * 16 + 16),
    "norms": 2 * 4 * 16,
    "lora": 2 * 2 * (2 * 16 * 2),
    "lora_writers": 2 * (2 * 16 * 2 + (64 + 16) * 2),
}


@pytest.mark.parametrize("trainable", SIZES)
def test_exactly_what_is_named_is_learnt(trainable: Trainable) -> None:
    model = built(replace(TINY, trainable=trainable, server_trainable=trainable if trainable != "all" else "norms"))
    assert model.client.size == SIZES[trainable]
    head = 16 * CLASSES + CLASSES
    assert built(replace(TINY, server_trainable="lora")).server.size == 2 * (2 * 16 * 2) + head
    assert built(replace(TINY, server_trainable="blocks")).server.size == BLOCK + head
    assert not any(parameter.requires_grad for parameter in model.client.module.parameters())


def test_adapters_start_without_effect_and_differ_by_seed() -> None:
    batch, plain = batch_of(5, 12, 1), built(replace(TINY, trainable="norms"))
    adapted = [bound(built(), seed) for seed in (0, 1)]
    bound(plain)
    with torch.inference_mode():
        for model in adapted:
            assert torch.equal(model.client.module(batch), plain.client.module(batch))
    first, second = (initial_theta_c(model, seed) for seed, model in enumerate(adapted))
    assert (first != second).any()
    assert initial_theta_c(built(), 0).tobytes() == first.tobytes()


def test_nothing_is_dropped_at_random() -> None:
    model, batch = bound(built()), batch_of(5, 12, 1)
    assert not model.client.module.training and not model.server.module.training
    assert all(module.p == 0 for module in model.server.module.modules() if isinstance(module, torch.nn.Dropout))
    assert torch.equal(logits(model, batch), logits(model, batch))


def test_a_first_order_client_differentiates_what_the_probes_measure() -> None:
    model, batch = built(), batch_of(5, 12, 1)
    theta = initial_theta_c(model, 0)
    theta += 0.1 * signs(bytes(16), theta.size)  # away from the start, where adapters have no effect
    at_rest = forward(model.client, model.client.views(theta), batch)
    dual = np.linspace(-1, 1, at_rest.size, dtype=np.float32).reshape(at_rest.shape)
    gradient = client_gradient(model.client, model.client.views(theta), batch, torch.from_numpy(dual))
    for key in (bytes(16), bytes(15) + b"\1"):
        direction = signs(key, theta.size)
        moved = forward(model.client, model.client.views(theta + np.float32(1e-3) * direction), batch)
        slope = float(((moved - at_rest).astype(np.float64) * dual).sum()) / 1e-3
        assert slope == pytest.approx(float(gradient @ direction), rel=0.05)


def test_frozen_parameters_cost_memory_and_no_copy() -> None:
    adapters, blocks = (built(replace(TINY, trainable=trainable)) for trainable in ("lora", "blocks"))
    batch = batch_of(5, 12)
    more, less = (step_cost(each, batch, 1, perturbed_floats(each.client, ZerothOrderSettings())).peak_bytes for each in (blocks, adapters))
    assert more - less == 4 * (SIZES["blocks"] - 2 * SIZES["lora"])


WRONG: dict[str, tuple[ModelSettings, tuple[int, ...], int, str]] = {
    "images": (TINY, (1, 8, 8), 0, "reads tokens"),
    "no tokens wanted": (ModelSettings(), (TOKENS,), VOCABULARY, "does not read tokens"),
    "cut too deep": (replace(TINY, cut_block=3), (TOKENS,), VOCABULARY, "has 3 blocks; expected at most 2"),
    "heads": (replace(TINY, heads=5), (TOKENS,), VOCABULARY, "must divide hidden"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_built_is_told(case: str) -> None:
    settings, shape, vocabulary, text = WRONG[case]
    with pytest.raises(SettingsError, match=text):
        build_model(settings, shape, CLASSES, vocabulary)


def test_a_model_that_was_not_fetched_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSFL_CACHE", str(tmp_path))
    with pytest.raises(SettingsError, match="hosfl data fetch minilm"):
        build_model(ModelSettings(name="minilm"), (TOKENS,), CLASSES, VOCABULARY)


def test_pretrained_values_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoders._random(TINY, TOKENS, VOCABULARY)
    for parameter in whole.parameters():
        parameter.data.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    (tmp_path / "config.json").write_text(json.dumps(whole.config.to_dict() | {"hidden_dropout_prob": 0.5}))
    save_file({**whole.state_dict(), "pooler.dense.bias": torch.zeros(16)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(encoders, "files_of", lambda name, where: tmp_path)
    first, second = (built(replace(TINY, name="minilm", trainable="writers")) for _ in range(2))
    batch = batch_of(5, 12, 1)
    present = (batch != PADDING).long()
    for seed, model in enumerate((first, second)):
        bound(model, seed)
        with torch.inference_mode():
            hidden = whole.eval()(input_ids=batch.clamp(min=0), attention_mask=present).last_hidden_state
            mean = (hidden * present[:, :, None]).sum(1) / present.sum(1, keepdim=True)
            torch.testing.assert_close(logits(model, batch), model.server.module.head(mean))
    frozen = [model.client.module.embeddings.word_embeddings.weight for model in (first, second)]
    assert frozen[0].data_ptr() == frozen[1].data_ptr()


# -- through the learners -----------------------------------------------------------------------------


def factory(shared: bool, **model: Any) -> LearnerFactory:
    task = replace(TASK, model=replace(TINY, **model))
    return LearnerFactory(task, ZerothOrderSettings(), FIRST, seed=7, clients=CLIENTS, shared=shared)


@pytest.mark.parametrize("matrices", ["float32", "int8", "bfloat16"])
@pytest.mark.parametrize("shared", [True, False])
def test_an_asynchronous_run_equals_the_oracle_bit_for_bit(shared: bool, matrices: Literal["float32", "int8", "bfloat16"]) -> None:
    run = Run(factory(shared, client_matrices=matrices))
    for name, weight, fresh in (("client-0", 1.0, False), ("client-2", 0.5, True), ("client-10", 1.0, False), ("client-0", 0.7, True)):
        run.begin(name)
        run.finish(name, weight, fresh)
        run.commit(weight)
    task = replace(TASK, model=replace(TINY, client_matrices=matrices))
    oracle = Reference(task, ZerothOrderSettings(), FIRST, seed=7, clients=CLIENTS, learning_rate=0.3, contributions=2.0)
    outcome = scheduled(oracle, run.schedule)
    run.aggregator.run(jobs.Replay(tuple(run.log[run.aggregator.version :])))
    assert run.aggregator._held.theta.tobytes() == outcome.theta_c[len(run.log)].tobytes()
    assert run.server.theta_s.tobytes() == outcome.theta_s.tobytes()
    run.server.run(jobs.Replay(tuple(run.log[run.server.version :])))
    assert run.server.run(jobs.Evaluate()).accuracy == oracle.accuracy(len(run.log))


def test_lengths_travel_and_must_fit() -> None:
    made = factory(True)
    client, server = made.client("client-0"), made.server()
    step = StepId("client-0", 1, 1)
    sent = client.run(jobs.Forward(step, 0))
    lengths = np.frombuffer(sent.activations.lengths, "<u2")
    assert len(lengths) == 8 and lengths.sum() == sent.activations.shape[0] and lengths.min() >= 4
    answer = server.run(jobs.Backward(step, sent.activations, sent.labels))
    assert answer.dual.shape == sent.activations.shape and not answer.dual.lengths
    bare = jobs.Backward(step, type(sent.activations)(**{**_fields(sent.activations), "lengths": b""}), sent.labels)
    refused(server, bare, "lengths of samples are missing")
    longest = np.array([*lengths[:-2], lengths[-2] + lengths[-1] - 1, 1], "<u2").tobytes()
    refused(server, jobs.Backward(step, type(sent.activations)(**{**_fields(sent.activations), "lengths": longest}), sent.labels), "tokens")


def _fields(tensor: Any) -> dict[str, Any]:
    return {name: getattr(tensor, name) for name in tensor.__struct_fields__}


def test_an_encoder_learns_the_toy_tokens() -> None:
    made = LearnerFactory(TASK, ZerothOrderSettings(), FirstOrderSettings(learning_rate=0.01), seed=1, clients=CLIENTS, shared=True)
    clients, server = [made.client(name) for name in CLIENTS], made.server()
    before = server.run(jobs.Evaluate())
    for number in range(1, 31):
        for name, client in zip(CLIENTS, clients, strict=True):
            step = StepId(name, 1, number)
            sent = client.run(jobs.Forward(step, 0))
            server.run(jobs.Backward(step, sent.activations, sent.labels))
    after = server.run(jobs.Evaluate())
    assert after.loss < 0.85 * before.loss and after.accuracy > before.accuracy + 0.2


# -- data and the optimiser ---------------------------------------------------------------------------


def test_snippets_are_distinct_decided_and_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["1\t2.5\tGood  film", "2\t-1.5\tBad film", "3\t0.4\tA film", "4\t-0.5\tDull film", "5\t-3\tGood  film", "6\t0.5\tFine film "]
    lines += [f"{i}\t{1 if i % 3 else -1}\tfilm number {i}" for i in range(7, 1207)]
    (tmp_path / "movie.tsv").write_bytes("\r\n".join(lines).encode())
    vocabulary = {"[UNK]": 0, "film": 1, "number": 2, "Good": 3, "Bad": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(texts, "files_of", lambda name, where: tmp_path)
    monkeypatch.setattr(encoders, "files_of", lambda name, where: tmp_path)
    sentences, labels, held_out = texts.snippets()
    assert sentences[:4] == ["Good  film", "Bad film", "Dull film", "Fine film"] and labels[:4].tolist() == [1, 0, 0, 1]
    assert held_out.sum() == texts.SNIPPETS_HELD_OUT and len(sentences) == 1204
    task = replace(TASK, data="snippets", tokens_max=2)
    first, second = (load_dataset(task, seed) for seed in (0, 1))
    assert (first.test_images == second.test_images).all() and (first.test_labels == second.test_labels).all()
    assert first.vocabulary == 5 and first.train_images.shape == (204, 2) and first.classes == 2


def test_the_test_set_is_ordered_by_length_with_its_labels() -> None:
    data = load_dataset(TASK, 0)
    lengths = (data.test_images != PADDING).sum(axis=1)
    assert (np.diff(lengths) >= 0).all()
    favourite = [np.bincount(row[row != PADDING] // 8, minlength=4).argmax() for row in data.test_images]
    assert (np.array(favourite) == data.test_labels).mean() > 0.8


def test_warm_up_decay_and_clipping_are_those_of_torch() -> None:
    settings = FirstOrderSettings(
        optimizer="sgd", learning_rate=0.5, warmup_steps=3, decay_steps=8, gradient_norm_max=0.05, evaluation_batch=8
    )
    model, theirs = (
        build_model(ModelSettings(client_widths=(3,)), (1, 4, 4), 4),
        build_model(ModelSettings(client_widths=(3,)), (1, 4, 4), 4),
    )
    ours = ServerTrainer(model.server, initial_theta_s(model, 0), settings)
    vector = ours.theta.copy()
    theirs.server.bind(theirs.server.views(vector))
    parameters = list(theirs.server.module.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (n + 1) / 3 if n < 3 else max(8 - (n + 1), 0) / 5)
    batch, labels = torch.rand(12, 3, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 4
    moved = []
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs.server.module(batch), labels).backward()
        assert torch.nn.utils.clip_grad_norm_(parameters, 0.05) > 0.05, "nothing is clipped: the test shows nothing"
        optimizer.step()
        schedule.step()
        before = ours.theta.copy()
        ours.backward(batch, labels)
        moved.append(float(np.linalg.norm(ours.theta - before)))
    np.testing.assert_allclose(ours.theta, vector, rtol=1e-4, atol=1e-6)
    assert moved[0] == pytest.approx(0.5 / 3 * 0.05, rel=1e-3) and moved[2] == pytest.approx(0.5 * 0.05, rel=1e-3)
    assert moved[7] == moved[9] == 0


def test_a_micro_batch_of_sequences_gives_each_client_its_own_dual() -> None:
    made = factory(True)
    sent = [(name, made.client(name).run(jobs.Forward(StepId(name, 1, 1), 0))) for name in CLIENTS[:3]]
    parts = tuple(jobs.Backward(StepId(name, 1, 1), done.activations, done.labels, 0.5) for name, done in sent)
    alone = [made.server().run(jobs.EvaluateDual(part.step, part.activations, part.labels)) for part in parts]
    together = made.server().run(jobs.BackwardTogether(parts))
    for own, part in zip(alone, together.parts, strict=True):
        assert part.step == own.step and part.dual.shape == own.dual.shape and part.loss == pytest.approx(own.loss, rel=1e-5)
        expected, found = (np.frombuffer(each.dual.data, "<f4") for each in (own, part))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
