"""Folders as transformers' ``save_pretrained`` writes them: where they lie, and which family they hold. Nothing in a folder is run."""

from __future__ import annotations

import json
from pathlib import Path

from hosfl_async.errors import SettingsError
from hosfl_async.learning.settings import ModelSettings

ENCODER_FAMILIES = ("bert",)
"""By transformers' ``model_type``: folders that become encoders (``encoders``). The others are causal models (``decoders.FAMILIES``)."""


def folder_of(settings: ModelSettings) -> Path:
    """Where configuration, values and tokenizer of smollm2, or of the user's own pretrained model, lie."""
    if settings.name == "smollm2":
        from hosfl_async.learning.smollm2 import converted

        return converted()
    folder = Path(settings.folder).expanduser()
    if not settings.folder or not (folder / "config.json").is_file():
        expected = "a folder with config.json and *.safetensors, as transformers' save_pretrained writes it"
        raise SettingsError("task.model.folder", "there is no model", expected=expected, found=settings.folder or "nothing")
    return folder


def family_of(settings: ModelSettings) -> str:
    """transformers' ``model_type`` of the folder, as its config.json says it; empty if it says none."""
    path = folder_of(settings) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise SettingsError("task.model.folder", f"{path} cannot be read: {problem}") from problem
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""
