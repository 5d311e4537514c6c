"""Lightning's Trainer with the commands that it lacks; their arguments become options."""

from pathlib import Path

import pytorch_lightning as pl

from vitlit import checkpointing
from vitlit.bad_images import refuse
from vitlit.callbacks import free_name
from vitlit.classifier import Classifier
from vitlit.datamodule import ImageData
from vitlit.decoding import printable
from vitlit.errors import InputError
from vitlit.explain import Subjects, balanced_sample, check_count, explain
from vitlit.export import Format, export
from vitlit.interpret import Fusion
from vitlit.namings import Naming
from vitlit.readers import FileImages

EXPLANATION, EXPORT = "explanation", "export"


class Trainer(pl.Trainer):
    """``fit``, ``validate``, ``test`` and ``predict`` are Lightning's."""

    def explain(
        self,
        model: Classifier,
        datamodule: ImageData,
        ckpt_path: str | None = None,
        *,
        out: str | None = None,
        count: int = 8,
        fusion: Fusion = "mean",
    ) -> Path:
        """Draw what the model looks at: figures, arrays and a page, in a folder.

        Args:
            model: The model.
            datamodule: The images: those of --data.images, else some of the validation split.
            ckpt_path: Checkpoint whose weights are explained.
            out: Folder to make; explanation by default, or explanation-2 and so on.
            count: Images of the validation split, the classes taking turns.
            fusion: How rollout joins the heads of a block: mean, max or min.

        Returns the folder.
        """
        _load(model, ckpt_path)
        subjects = _subjects(datamodule, count)
        folder = _folder(out, EXPLANATION)
        _make(folder)
        vit = model.vit.to(self.strategy.root_device)
        explain(vit, subjects, datamodule.preprocess, model.class_names, folder, fusion=fusion)
        return folder

    def export(
        self,
        model: Classifier,
        datamodule: ImageData,
        ckpt_path: str | None = None,
        *,
        format: Format = "safetensors",
        naming: Naming | None = None,
        out: str | None = None,
    ) -> str:
        """Write the model for use elsewhere, and check that it computes the same there.

        Args:
            model: The model.
            datamodule: How its images are prepared.
            ckpt_path: Checkpoint whose weights are exported.
            format: safetensors, onnx (onnxruntime) or pt2 (torch.export).
            naming: Whose names the weights of safetensors get, timm by default.
            out: Folder to make; export by default, or export-2 and so on.

        Returns what was written, in words.
        """
        _load(model, ckpt_path)
        names, folder = model.class_names, _folder(out, EXPORT)
        found = export(
            model.vit, datamodule.preprocess, names, folder, format=format, naming=naming
        )
        return found.message


def _subjects(data: ImageData, count: int) -> Subjects:
    """What is to be explained; refused before anything is read if it is too much."""
    if data.image_paths is not None:
        data.setup("predict")
        split = data.splits["predict"]
        check_count(len(split))
        members, names = split.members, [printable(file) for file in data.files]
        assert isinstance(split.images, FileImages)
        pixels, bad = split.images.read(members)
        refuse(bad, len(split), "mend them, or leave them out of --data.images")
    else:
        check_count(count)
        data.prepare_data()
        data.setup("validate")
        split = data.splits["val"]
        places = balanced_sample(split, count)
        members = split.members[places]
        names = [f"{data.dataset} val {place}" for place in places]
        pixels = split.images.gather(members)
    return Subjects(names, pixels, split.images.labels[members])


def _load(model: Classifier, ckpt_path: str | None) -> None:
    if ckpt_path is not None:
        model.load_state_dict(checkpointing.read(Path(ckpt_path))["state_dict"])


def _folder(out: str | None, usual: str) -> Path:
    return Path(out) if out else free_name(Path(usual))


def _make(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder} exists; give --out another name, or remove it")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
