"""Programs of torch.export: a small convolutional network, and archives that someone changed."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

CNN_SIZE = [3, 12, 12]
CNN_MEAN, CNN_STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
DIGITS = [str(label) for label in range(10)]


def small_cnn(classes: int = 10) -> nn.Module:
    """In evaluation mode; its normalisation has statistics that are not those of a new one."""
    layers = [nn.Conv2d(CNN_SIZE[0], 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, classes)]
    model = nn.Sequential(*layers, *head)
    nn.init.uniform_(model[1].running_mean, -0.2, 0.2)
    nn.init.normal_(model[-1].weight)
    return model.eval()


def save_program(model: nn.Module, path: Path, *, dynamic: bool = True, **facts: Any) -> Path:
    """Write the model as people are told to; facts: in place of those of small_cnn; None: none."""
    found = {"class_names": DIGITS, "input_size": CNN_SIZE, "mean": CNN_MEAN, "std": CNN_STD}
    found = {name: value for name, value in (found | facts).items() if value is not None}
    sizes = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.export.export(model, (torch.zeros(2, *CNN_SIZE),), dynamic_shapes=sizes)
    extra = {"metadata.json": json.dumps(found)} if found else {}
    torch.export.save(program, path, extra_files=extra)
    return path


def changed(program: Path, path: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Path:
    """A copy of an archive; changes: by the end of an entry's name, its new bytes from the old."""
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        names = old.namelist()
        for name in names:
            content = old.read(name)
            for end, change in changes.items():
                content = change(content) if name.endswith(end) else content
            new.writestr(name, content)
        for end, change in changes.items():
            if not any(name.endswith(end) for name in names):
                new.writestr(f"{names[0].split('/')[0]}/{end}", change(b""))
    return path
