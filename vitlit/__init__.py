"""Vision Transformers for your own images: train, fine-tune, explain, export."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Classifier", "ImageData", "InputError", "ViT", "load", "patchify", "unpatchify"]

# The module of each public name. Importing them here would import torch (1.4 s of CPU time).
_HOMES = {
    "Classifier": "vitlit.training.classifier",
    "ImageData": "vitlit.training.classifier",
    "InputError": "vitlit.errors",
    "ViT": "vitlit.model.vit",
    "load": "vitlit.weights.load",
    "patchify": "vitlit.patches",
    "unpatchify": "vitlit.patches",
}
# Modules that have moved, for configs that name a class by its earlier path.
_MOVED = {"history": "vitlit.explain.attention_pictures"}  # AttentionPictures


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `vitlit --help` is quick (PEP 562)."""
    if name not in {*_HOMES, *_MOVED}:
        raise AttributeError(f"module 'vitlit' has no attribute {name!r}")
    from importlib import import_module

    if name in _MOVED:
        return import_module(_MOVED[name])
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The names that exist already, and those that :func:`__getattr__` would import."""
    return sorted({*globals(), *__all__})
