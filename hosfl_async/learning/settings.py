"""Settings of the learning room: what is learnt, how the client half is probed, how the server half steps.

Scenario files hold these very structs; each field's text is its documentation everywhere. The seed is not among them: one seed
belongs to the whole run, and every source of randomness here is a named key derived from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from hosfl_async.messages import CutDtype

_SCHEMA: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""How pydantic reads these dataclasses when they stand in a scenario file."""

MODEL_NAMES = ("mlp", "cnn", "encoder", "minilm", "decoder", "smollm2", "transformers", "efficientnet_lite0", "efficientnet")
DATA_NAMES = ("digits", "toy", "toy_tokens", "snippets", "fashion_mnist", "watch")

ENCODERS = ("encoder", "minilm")
"""Models that read tokens in both directions; skip feedback knows their skip connections."""

DECODERS = ("decoder", "smollm2", "transformers")
"""Models that read tokens from first to last: causal language models; but for a folder of transformers that holds BERT."""

FED_BACK = ("writers", "lora_writers", "norms")
"""Values of ``task.model.trainable`` of which all lies in residual writers: what skip feedback reaches in encoders."""

FED_BACK_CAUSAL = ("writers", "lora_writers")
"""The same of decoders, whose normalisations are not on the path."""

Width = Annotated[int, Ge(1), Le(65536)]

Trainable = Literal["all", "blocks", "last_block", "writers", "norms", "lora", "lora_writers"]
"""Which parameters of a text model's half are learnt; the others are frozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """A model by name and the place where it is cut. Everything listed for the client lies before the cut layer."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    name: Annotated[str, MinLen(1), MaxLen(200)] = "mlp"
    """mlp: fully connected layers. cnn: 3x3 convolutions, each followed by 2x2 pooling, before the cut; fully connected after it. For
    signals, which have height 1, 1x5 convolutions and 1x2 pooling.
    minilm: the pretrained MiniLM-L6 text encoder, cut between two blocks; mean pooling and one layer onto the classes at its end.
    encoder: a BERT encoder of any size with random values. smollm2: the pretrained causal language model SmolLM2-135M, whose last token is
    classified. decoder: a causal model of any family and size with random values. transformers: a pretrained one from a folder.
    efficientnet_lite0: the convolutional network with its ImageNet values, cut between two blocks; efficientnet: with random values.
    Or your own: the name of an entry point, or module:function, which is called with the shape of a sample and the number of classes (and
    where the data are tokens the size of the vocabulary) and returns a torch.nn.Sequential, or its blocks as a list."""
    cut_after: Annotated[str, MaxLen(200)] = ""
    """Of your own model: the name of the last part in the client half, such as layer2, or how many parts there are."""
    keep_values: bool = True
    """Of your own model: training starts from the values that it comes with; otherwise from values drawn from the seed."""
    client_widths: Annotated[tuple[Width, ...], MinLen(1), MaxLen(8)] = (7,)
    """Outputs of each client layer (mlp: units, cnn: channels); the last one is the width of the cut."""
    server_widths: Annotated[tuple[Width, ...], MaxLen(8)] = (64,)
    """Units of each hidden server layer; the layer onto the classes is added."""
    activation: Literal["relu", "tanh"] = "relu"
    """After every layer but the last of the server half."""
    cut: Literal["layer", "end"] = "layer"
    """Methods fix it. layer: where the widths or cut_block say. end: the client half is the whole model, the server has none."""
    cut_block: Annotated[int, Ge(1), Le(256)] = 2
    """Text models and efficientnet: blocks in the client half, which has the embeddings or the stem too."""
    trainable: Trainable = "lora"
    """Text models: what is learnt in the client half. lora: low-rank adapters beside the query and value matrices. norms: scales and
    shifts of the blocks' normalisations. writers: the two matrices of each block whose outputs are added to the stream. lora_writers:
    adapters beside these. last_block: the block before the cut. blocks: all blocks. all: the embeddings, too."""
    client_matrices: Literal["float32", "bfloat16", "int8"] = "float32"
    """Text models: how the frozen matrices of the client half are kept. bfloat16: half the memory, and less time for a forward pass
    where the processor has instructions for it. int8: less of both (docs/results.md), and no back-propagation through them; with
    a zeroth_order.mu of 1e-2 or so, that is heard above the rounding."""
    server_trainable: Trainable = "blocks"
    """Text models: what is learnt in the server half, beside the layer onto the classes."""
    lora_rank: Annotated[int, Ge(1), Le(1024)] = 8
    """Of the adapters, on both sides."""
    lora_alpha: Annotated[int, Ge(1), Le(65536)] = 16
    """An adapter's product counts lora_alpha / lora_rank times."""
    blocks: Annotated[int, Ge(2), Le(256)] = 4
    """Of encoder and decoder: blocks in all."""
    hidden: Annotated[int, Ge(4), Le(8192)] = 64
    """Of encoder and decoder: width of the stream between blocks; the feed-forward layers are four times as wide."""
    heads: Annotated[int, Ge(1), Le(256)] = 4
    """Of encoder and decoder: attention heads; must divide hidden."""
    image_side: Annotated[int, Ge(32), Le(512)] = 96
    """Of efficientnet: images are enlarged to this height and width by the client half."""
    family: Literal["llama", "gemma", "gemma2", "gemma3_text", "opt", "gpt2"] = "llama"
    """Of decoder: whose blocks."""
    folder: Annotated[str, MaxLen(4096)] = ""
    """Of transformers: where config.json, *.safetensors and tokenizer.json of a BERT, Llama, Gemma, OPT or GPT-2 model lie. BERT's becomes
    an encoder as minilm is one, the others causal models as smollm2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSettings:
    """How the training samples are dealt to the clients: each sample to exactly one client."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    rule: Literal["iid", "dirichlet", "shards", "quantity", "natural"] = "dirichlet"
    """iid: equal random parts. dirichlet: each class is shared out by its own Dirichlet draw. shards: sorted by label, cut into
    equal shards, a few for each client. quantity: random parts whose sizes are one Dirichlet draw. natural: whose they are (watch: people);
    with fewer clients than owners a client gets several owners' samples."""
    dirichlet_alpha: Annotated[float, Gt(0)] = 0.5
    """Concentration of the dirichlet and quantity rules; small is skewed."""
    shards_per_client: Annotated[int, Ge(1), Le(1000)] = 2
    """Shards for each client under the shards rule."""
    samples_min: Annotated[int, Ge(1)] = 1
    """Every client gets at least so many samples, taken from the richest if need be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """What is learnt: data, model and how the data are spread over the clients."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    data: Annotated[str, MinLen(1), MaxLen(200)] = "digits"
    """digits: 1,797 real handwritten digits, 8x8, 10 classes. toy: synthetic clusters, for tests and for very many clients. toy_tokens:
    the same as sequences of tokens. To be fetched first by `hosfl data fetch`: snippets, 10,070 sentences of film reviews, good or bad (and
    minilm, whose tokens they become); fashion_mnist, 70,000 images of clothes; watch, a smartwatch's recordings of ten people. Or
    your own: *.npz with images and labels; *.csv or *.jsonl with texts and labels; a folder (written with a slash: ./photos) with a folder
    of images for each class, or one that Hugging Face datasets has saved; an entry point, or module:function, called with the seed."""
    input_column: Annotated[str, MaxLen(200)] = "text"
    """Of tables and Hugging Face data sets: the column of texts, images or numbers that are classified."""
    label_column: Annotated[str, MaxLen(200)] = "label"
    """Of the same: the column of their classes, as whole numbers from 0 or as words."""
    owner_column: Annotated[str, MaxLen(200)] = ""
    """Of the same: the column that says whose a sample is, for the natural partition. Empty: nobody's."""
    image_side: Annotated[int, Ge(0), Le(1024)] = 0
    """Of images in folders or data sets: scaled to this height and width. 0: as they are, which must be equal."""
    toy_samples: Annotated[int, Ge(40), Le(10_000_000)] = 2000
    """Samples of the toy data."""
    tokens_max: Annotated[int, Ge(2), Le(65535)] = 64
    """Texts are cut after so many tokens."""
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Part of each class held out for evaluation. snippets has a fixed test set of 1,000 sentences instead, fashion_mnist its own, and
    watch whole people."""
    samples_max: Annotated[int, Ge(0)] = 0
    """Training samples that are kept, chosen at random; 0: all."""
    test_samples_max: Annotated[int, Ge(0)] = 0
    """Held-out samples that are kept, chosen at random, where evaluating all of them is dear; 0: all."""
    test_people: Annotated[tuple[Annotated[int, Ge(1), Le(10)], ...], MaxLen(9)] = (9, 10)
    """Of watch: who is held out. Nobody: the last fifth of each recording is."""
    train_people: Annotated[tuple[Annotated[int, Ge(1), Le(10)], ...], MaxLen(10)] = ()
    """Of watch: who trains, of those who are not held out. Nobody: all of them."""
    batch_size: Annotated[int, Ge(1), Le(65536)] = 32
    """Samples in one client step; drawn with replacement where a client has fewer."""
    model: ModelSettings = field(default_factory=ModelSettings)
    partition: PartitionSettings = field(default_factory=PartitionSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSettings:
    """In how many bits activations and duals travel. Who receives them needs no setting: a tensor says what it is."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    activations: CutDtype = "float32"
    """From client to server. bfloat16, int8 and int4 are rounded at random, without bias, by draws from the step's own name."""
    duals: CutDtype = "float32"
    """From server to client, in the same way."""
    scale_per: Literal["tensor", "sample"] = "tensor"
    """int8 and int4: one absmax scale for the whole tensor, or one (4 bytes) for each sample of the batch."""


DEFAULT_CUT = CutSettings()


Feedback = Literal["skip", "gated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZerothOrderSettings:
    """The client half's estimator."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    mu: Annotated[float, Gt(0), Le(1)] = 1e-3
    """Smoothing: how far a probe moves each parameter. 1e-4 to 1e-2 makes little difference."""
    signs: Literal["independent", "low_rank"] = "low_rank"
    """low_rank: the rows of a layer in blocks, each block one row of signs, each row a sign of its own; probes need no perturbed weights.
    independent: a sign for each weight."""
    rank: Annotated[int, Ge(1), Le(4096)] = 16
    """Blocks of a layer under low_rank signs. Fewer cost less and have heavier tails; a layer with no more rows than this has them all."""
    directions: Literal["per_step", "per_version"] = "per_step"
    """Whether directions are named by the step or by its base version."""
    feedback: Feedback = "skip"
    """Of skip_feedback: the dual's way down at a feed-forward branch. skip: past it. gated: past it and through it, each unit's slope
    being one of two, for values above zero and below; one bit for each unit and token is kept for that. That is back-propagation
    through these branches, with compressed activations."""
    digests_kept_max: Annotated[int, Ge(1)] = 4096
    """Digests of past versions that a version store remembers; an older one is computed anew."""


DEFAULT_ZEROTH_ORDER = ZerothOrderSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """What a log entry does to the client half, the same for everyone who replays it; ``update_rule`` has the formulas."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    rule: Literal["sgd", "momentum", "adamw"] = "sgd"
    """sgd: the entry is added, nothing is remembered. momentum: one more vector of the client half's size on every device, adamw: two.
    adamw takes aggregator.learning_rate at replay and normalises away what else scales an entry."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of the momentum rule: m = momentum m + step. In the long run an entry counts 1 / (1 - momentum) times."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of adamw: decay of the mean step."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Of adamw: decay of the mean squared step."""
    epsilon: Annotated[float, Gt(0)] = 1e-8
    """Of adamw: added to the root of the mean squared step."""
    weight_decay: Annotated[float, Ge(0), Le(1)] = 0.0
    """Of adamw, decoupled: parameters shrink by aggregator.learning_rate weight_decay at each entry."""
    decay_versions: Annotated[int, Ge(0)] = 0
    """Of adamw: the learning rate falls linearly from the first entry to zero at this version, and is zero from then on. 0: it stays. A run
    makes some aggregator.client_steps / aggregator.buffer_contributions versions, more where a deadline closes entries early."""


DEFAULT_UPDATE = UpdateSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalSettings:
    """Fine-tuning of each client's own copy of the client half when the run is over; nothing of it is ever aggregated."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    steps: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """Steps that each client takes on its own training samples: forward passes and the final server half's dual, as ever. 0: none, and
    nobody keeps samples back."""
    learning_rate: Annotated[float, Gt(0)] = 0.005
    """Of these steps, each of which is one client's alone."""
    probes: Annotated[int, Ge(1), Le(4096)] = 20
    """Perturbed forward passes of each of these steps."""
    held_out: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Part of each client's samples of each class, the last ones, that nobody trains on, in the whole run: its own test."""
    gap: Annotated[int, Ge(0), Le(1000)] = 0
    """Samples before these that are left out, too. watch needs 1: a window shares half of its values with the next."""


DEFAULT_PERSONAL = PersonalSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstOrderSettings:
    """The server half's optimiser."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    optimizer: Literal["sgd", "momentum", "adamw"] = "adamw"
    """sgd and momentum feel the gradient weight of a stale step; adamw normalises most of it away."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of the momentum optimiser: m = momentum m + g."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled: parameters shrink by learning_rate weight_decay at each step, whatever the optimiser."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of adamw: decay of the mean gradient."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Of adamw: decay of the mean squared gradient."""
    epsilon: Annotated[float, Gt(0)] = 1e-8
    """Of adamw: added to the root of the mean squared gradient."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """The learning rate grows linearly over so many steps at the beginning."""
    decay_steps: Annotated[int, Ge(0)] = 0
    """The learning rate falls linearly from the end of the warm-up to zero at this step, and is zero from then on. 0: it stays."""
    gradient_norm_max: Annotated[float, Ge(0)] = 0.0
    """A longer gradient is shortened to this Euclidean length, before its weight. 0: none is."""
    activation_rms_max: Annotated[float, Ge(0)] = 0.0
    """Activations of which one sample (of sequences: one token) has a larger root mean square are refused as malformed, so that nobody
    throws the server half away by their size. 0: none are."""
    evaluation_batch: Annotated[int, Ge(1), Le(65536)] = 1024
    """Held-out samples evaluated in one forward pass."""
