"""The commands that Lightning's Trainer lacks; their arguments become options.

model, data, checkpoint -> figures of ``explain``, files of ``export``, lines of the other two

The parser makes ``--help`` of a command from the signature and docstring of its method.
"""

import copy
import math
import shlex
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vitlit.commands.anomaly_command import AnomalyCommand
from vitlit.data.datamodule import PlainImageData
from vitlit.deploy.int8 import Quantize
from vitlit.deploy.portable import Naming
from vitlit.deploy.words import ExportFormat
from vitlit.deploy.write_export import ExportChoices, write_export
from vitlit.errors import InputError, inform
from vitlit.evaluation import compare
from vitlit.evaluation.precision import in_precision, weights_dtype
from vitlit.explain.attribution import Fusion
from vitlit.explain.explanation import explain_images
from vitlit.explain.findings import Subjects, check_count
from vitlit.features.alike import find_alike
from vitlit.features.probe import Extract, extractor, probe_data_set, set_up_probe
from vitlit.features.probe_classifiers import LinearClassifier
from vitlit.features.saved_probe import check_can_save, save_classifier
from vitlit.files import named_or_free, new_folder, printable, relative_path
from vitlit.images.bad_images import refuse_bad_images
from vitlit.images.image_store import FileImages
from vitlit.messages import labelled
from vitlit.model.features import Feature, FeaturePool
from vitlit.model.vit import ViT
from vitlit.training.runs import named_folder
from vitlit.training.trainable import TrainableViT
from vitlit.weights.pretrained import read_whole_checkpoint

EXPLAINED_IMAGES = 8  # default number of images of the validation split
EXPLANATION_FOLDER, EXPORT_FOLDER, PROBE_FOLDER = "explanation", "export", "probe"


def _check_probe(k: int, c: float | None, *, is_search: bool, query: list[str] | None) -> None:
    if k < 1:
        raise InputError(f"k {k} is too small; give 1 or more", argument="k")
    if query and not is_search:
        raise InputError("--query searches your own images; give --data.images too")
    if c is not None and not 0 < c < math.inf:
        raise InputError(f"c {c} is not positive; change --c, or leave it out to search for it")


class Commands(AnomalyCommand):
    """Also explain, export, compare and probe, on a device in a precision (Lightning's name)."""

    root: str  # the folder that holds lightning_logs

    def explain(
        self,
        model: TrainableViT,
        datamodule: PlainImageData,
        ckpt_path: str | None = None,
        *,
        out: str | None = None,
        count: int | None = None,
        fusion: Fusion = "mean",
    ) -> Path:
        """Draw what the model looks at: figures, arrays and a page, in a folder.

        Args:
            model: The model.
            datamodule: The images: those of --data.images, else some of the validation split.
            ckpt_path: Checkpoint whose weights are explained.
            out: Folder to create; by default explanation, or explanation-2 and so on. In it,
                overview.png and index.html show every image, and heads.png the first one.
            count: Number of images: of the validation split, balanced over classes (8 by default);
                or the first ones of --data.images (all by default).
            fusion: How rollout combines the heads of a block: mean, max or min.

        Returns the folder.
        """
        # Lightning's commands load checkpoints themselves; ours have to.
        fill_from_checkpoint(model, ckpt_path)
        subjects = _subjects(datamodule, count)
        vit, answer = model.vit.to(self.root_device), self._answer(model.vit)
        about = (subjects, datamodule.preprocess, model.class_names)
        folder = named_or_free(out, EXPLANATION_FOLDER)
        with new_folder(folder) as part:
            explain_images(vit, *about, part, fusion=fusion, answer=answer, task=model.task)
        return folder

    def _answer(self, vit: ViT) -> Callable[[Tensor], Tensor]:
        """A function for logits as ``predict`` computes them.

        With weights that are not float32 it works on a copy: the maps need the model in float32.
        """
        # "32-true" and the mixed precisions keep float32 weights: no copy is needed.
        dtype = weights_dtype(self.precision)
        own = vit if dtype == torch.float32 else copy.deepcopy(vit).to(dtype)
        return in_precision(own.eval().forward, self.precision, self.root_device.type)

    def export(
        self,
        model: TrainableViT,
        datamodule: PlainImageData,
        ckpt_path: str | None = None,
        *,
        format: ExportFormat = "safetensors",
        naming: Naming | None = None,
        preprocess: bool = False,
        quantize: Quantize = "none",
        push: str | None = None,
        out: str | None = None,
    ) -> str:
        """Write the model for use elsewhere, and check that it computes the same there.

        Args:
            model: The model.
            datamodule: How its images are prepared.
            ckpt_path: Checkpoint whose weights are exported.
            format: safetensors, onnx (for onnxruntime), pt2 (of torch.export) or web (a page that
                runs the model on what you draw or open).
            naming: Names of the weights in safetensors: timm, huggingface, or vitlit, which
                supports any model; by default the first of them that supports this one.
            preprocess: Whether the ONNX model takes the pixels of one image of any size, and
                returns probabilities.
            quantize: int8 also writes model.int8.onnx, for processors without
                bfloat16, and compares their accuracy on the validation split.
            push: OWNER/NAME of a repository on the Hugging Face hub to upload the folder to; if it
                does not exist, it is created as a private one.
            out: Folder to create; by default export, or export-2 and so on.

        Returns the lines to print: what was written and how to use it.
        """
        choices = ExportChoices(format, naming, preprocess, quantize, push)
        choices.check()  # before the weights are read
        fill_from_checkpoint(model, ckpt_path)
        folder = named_or_free(out, EXPORT_FOLDER)
        lines = write_export(model, datamodule, ckpt_path, choices, folder)
        if format == "safetensors":
            lines.append(f"use it in vitlit with --model.pretrained {shlex.quote(str(folder))}")
        return "\n".join(lines)

    def compare(
        self,
        model: TrainableViT,
        datamodule: PlainImageData,
        ckpt_path: str | None = None,
        *,
        others: list[str] | None = None,
        flip: bool = False,
        precision_of: Callable[[str | None], str] | None = None,
    ) -> None:
        """Score several checkpoints on the same images: `vitlit compare A B C`.

        Args:
            model: The model.
            datamodule: The images: split --data.split (by default test) of the first checkpoint.
            ckpt_path: The checkpoint with which the others are compared: A.
            others: The other checkpoints: B and C.
            flip: Test-time augmentation: average the logits of each image and its mirror image.
            precision_of: From the precision of a model's training to that in which it is scored;
                None scores all of them in the precision of this trainer.
        """
        if not (ckpt_path and others):
            raise InputError("compare needs two checkpoints or more; give `vitlit compare A B`")
        paths = compare.shown_paths([ckpt_path, *others])
        run = compare.make_runner(self.root_device, flip=flip)
        rule = precision_of or (lambda trained: self.precision)
        scored = compare.score_all(paths, datamodule, run, rule)
        title = compare.comparison_title(datamodule, len(scored[0].rows.labels), flip=flip)
        self._print(*compare.comparison_lines(scored, title))

    def probe(
        self,
        model: TrainableViT,
        datamodule: PlainImageData,
        ckpt_path: str | None = None,
        *,
        k: int = 10,
        c: float | None = None,
        layer: int | None = None,
        pool: FeaturePool | None = None,
        query: list[str] | None = None,
        save: str | None = None,
        out: str | None = None,
    ) -> None:
        """Measure how good a model's features are on a data set, without its head.

        Args:
            model: The model.
            datamodule: The data set; or, with --data.images, the files to search for neighbours.
            ckpt_path: Checkpoint whose features are probed.
            k: Number of nearest training images, by cosine similarity, that vote for a class.
            c: Inverse strength of the L2 penalty of the regression, as in scikit-learn; by default
                the value from 0.01 to 100 with the best validation score.
            layer: Block whose features are used, counted from 0, or from the end: -1, -2, …
            pool: Features of the class token, or the mean of the patches.
            query: With --data.images: files whose nearest neighbours are wanted.
            save: Save the model, with the fitted linear classifier as its head, as the run
                lightning_logs/NAME, for test, predict, explain and export with --run NAME.
            out: Folder to create; by default probe, or probe-2 and so on.
        """
        _check_probe(k, c, is_search=datamodule.image_paths is not None, query=query)
        feature = Feature(layer, pool)
        feature.check(model.vit)  # a wrong layer is refused before anything is read
        run = None if save is None else named_folder(Path(self.root), save, argument="save")
        if run is not None:
            check_can_save(run, datamodule, feature)
        if ckpt_path is not None:  # published weights are in the model already
            load_body(model, Path(ckpt_path))
        device = self.root_device
        vit = model.vit.to(device, weights_dtype(self.precision)).eval()

        def extract_by(compute: Callable[[Tensor], Tensor]) -> Extract:
            return extractor(in_precision(compute, self.precision, device.type), device)

        def answer(linear: LinearClassifier) -> Extract:
            dtype = weights_dtype(self.precision)
            vit.set_head(*(value.to(device, dtype) for value in linear))
            return extract_by(vit)

        extract = extract_by(lambda x: feature(vit, x))
        if datamodule.image_paths is None:
            # Before the folder is made: an empty one beside the class folders would be a class.
            set_up_probe(datamodule, k)
        folder = named_or_free(out, PROBE_FOLDER)
        with new_folder(folder) as part:
            if datamodule.image_paths is not None:
                lines = find_alike(datamodule, extract, part, query=query)
            else:
                weights = ckpt_path or model.hparams["pretrained"]
                about = {"weights": weights, "layer": layer, "pool": pool}
                found = probe_data_set(
                    datamodule, extract, part, k=k, c=c, about=about, answer=answer if run else None
                )
                lines = found.lines
        self._print(*lines, f"wrote       {folder}")
        if run is not None and self.is_global_zero:
            file = save_classifier(run, vit, model.hparams, datamodule, self.precision, found)
            self._print(labelled("saved", f"{relative_path(file)}: use it with --run {run.name}"))

    def _print(self, *lines: str) -> None:
        if self.is_global_zero:
            print(*lines, sep="\n")


def load_body(model: TrainableViT, path: Path) -> None:
    """Load a checkpoint's weights except the head, which may be for other classes."""
    # The model has the classes of the data that are probed, not those of the checkpoint.
    head = ("vit.head.weight", "vit.head.bias")
    state = read_whole_checkpoint(path)["state_dict"]
    own = {name: value for name, value in model.state_dict().items() if name in head}
    model.load_state_dict({**state, **own})


def _subjects(data: PlainImageData, count: int | None) -> Subjects:
    """The images to explain. Raises InputError before any is read if there are too many."""
    if data.image_paths is not None:
        data.setup("predict")
        split = data.splits["predict"]
        limit = len(split) if count is None else count
        check_count(limit)
        members = split.members[:limit]
        names = [printable(file) for file in data.files[:limit]]
        if len(members) < len(split):
            inform(f"using the first {len(members)} of {len(split)} images, as set by --count")
        assert isinstance(split.images, FileImages)
        pixels, bad = split.images.read(members)
        refuse_bad_images(
            bad, len(members), "fix them, or remove them from images", argument="images"
        )
    else:
        count = EXPLAINED_IMAGES if count is None else count
        check_count(count)
        data.prepare_data()
        data.setup("validate")
        split = data.splits["val"]
        places = split.balanced_places(count)
        members = split.members[places]
        names = split.names(places, f"{data.dataset} val")
        pixels = split.images.gather(members)
    return Subjects(names, pixels, split.images.labels[members])


def fill_from_checkpoint(model: TrainableViT, ckpt_path: str | None) -> None:
    """Load the weights of a checkpoint, if one is given."""
    if ckpt_path is not None:
        model.load_state_dict(read_whole_checkpoint(Path(ckpt_path))["state_dict"])


def explain_lines(folder: Path, *, has_head: bool) -> list[str]:
    """After ``explain``: the files, and what they lack for a model without a head."""
    names = " ".join(sorted(file.name for file in folder.iterdir()))
    wrote = labelled("wrote", f"{relative_path(folder)}: {names}")
    lack = "left out    predicted classes and relevance to them: there is no head"
    return [wrote] if has_head else [wrote, lack]
