"""Lightning's Trainer with the commands that it lacks; their arguments become options."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from vitlit.data.datamodule import ImageData
from vitlit.errors import InputError
from vitlit.evaluation import compare
from vitlit.evaluation.precision import in_precision, weights_dtype
from vitlit.explain.attribution import Fusion
from vitlit.explain.explanation import Subjects, check_count, explain_images
from vitlit.features.probe import extractor, find_alike, probe_data_set
from vitlit.files import named_or_free, new_folder, printable
from vitlit.images.bad_images import refuse_bad_images
from vitlit.images.image_store import FileImages
from vitlit.model.features import Feature, FeaturePool
from vitlit.model.vit import ViT
from vitlit.training.classifier import Classifier
from vitlit.weights import checkpoint
from vitlit.weights.export import ExportFormat, export_model
from vitlit.weights.export_mapping import Naming

EXPLAINED_IMAGES = 8  # images of the validation split to explain
EXPLANATION_FOLDER, EXPORT_FOLDER, PROBE_FOLDER = "explanation", "export", "probe"
OWN_COMMANDS = ("explain", "export", "compare", "probe")  # those that Lightning lacks


class Trainer(pl.Trainer):
    """``fit``, ``validate``, ``test`` and ``predict`` are Lightning's."""

    def explain(
        self,
        model: Classifier,
        datamodule: ImageData,
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
            out: Folder to make; explanation by default, or explanation-2 and so on. In it,
                overview.png and index.html show every image, and heads.png the first one.
            count: Images of the validation split, the classes taking turns, 8 by default; or how
                many of --data.images, the first ones, all by default.
            fusion: How rollout joins the heads of a block: mean, max or min.

        Returns the folder.
        """
        _load_weights(model, ckpt_path)
        subjects = _subjects(datamodule, count)
        vit, answer = model.vit.to(self.strategy.root_device), self._answer(model.vit)
        about = (subjects, datamodule.preprocess, model.class_names)
        with new_folder(named_or_free(out, EXPLANATION_FOLDER)) as folder:
            explain_images(vit, *about, folder, fusion=fusion, answer=answer)
        return folder

    def _answer(self, vit: ViT) -> Callable[[Tensor], Tensor]:
        """Logits as ``predict`` computes them, of a copy where weights are not float32."""
        dtype = weights_dtype(self.precision)
        own = vit if dtype == torch.float32 else copy.deepcopy(vit).to(dtype)
        return in_precision(own.eval().forward, self.precision, self.strategy.root_device.type)

    def export(
        self,
        model: Classifier,
        datamodule: ImageData,
        ckpt_path: str | None = None,
        *,
        format: ExportFormat = "safetensors",
        naming: Naming | None = None,
        out: str | None = None,
    ) -> str:
        """Write the model for use elsewhere, and check that it computes the same there.

        Args:
            model: The model.
            datamodule: How its images are prepared.
            ckpt_path: Checkpoint whose weights are exported.
            format: safetensors, onnx (onnxruntime) or pt2 (torch.export).
            naming: Whose names the weights of safetensors get: timm, huggingface, or vitlit,
                which holds any model; by default the first of them that can tell this one.
            out: Folder to make; export by default, or export-2 and so on.

        Returns what was written, in words.
        """
        _load_weights(model, ckpt_path)
        names = model.class_names if model.num_classes else []
        folder = named_or_free(out, EXPORT_FOLDER)
        found = export_model(
            model.vit, datamodule.preprocess, names, folder, format=format, naming=naming
        )
        if format != "safetensors":
            return found.message
        return f"{found.message}\nuse it here with --model.pretrained {folder}"

    def compare(
        self,
        model: Classifier,
        datamodule: ImageData,
        ckpt_path: str | None = None,
        *,
        others: list[str] | None = None,
        flip: bool = False,
        precision_of: Callable[[str | None], str] | None = None,
    ) -> None:
        """Score several checkpoints on the same images: `vitlit compare A B C`.

        Args:
            model: The model.
            datamodule: The images: the split of --data.split, test by default, of the first.
            ckpt_path: The checkpoint that the others are compared with: A.
            others: The other checkpoints: B and C.
            flip: Average the logits of each image and its mirror image.
            precision_of: What a model is scored in, by the precision of its training; None is the
                precision of this trainer for all of them.
        """
        paths = compare.shown_paths([*([ckpt_path] if ckpt_path else []), *(others or [])])
        run = compare.make_runner(self.strategy.root_device, flip=flip)
        rule = precision_of or (lambda trained: self.precision)
        scored = compare.score_all(paths, datamodule, run, rule)
        title = compare.comparison_title(datamodule, len(scored[0].rows.labels), flip=flip)
        self._print(*compare.comparison_lines(scored, title))

    def probe(
        self,
        model: Classifier,
        datamodule: ImageData,
        ckpt_path: str | None = None,
        *,
        k: int = 10,
        c: float | None = None,
        layer: int | None = None,
        pool: FeaturePool | None = None,
        query: list[str] | None = None,
        out: str | None = None,
    ) -> None:
        """Say what a model's features are worth on a data set, its head left out.

        Args:
            model: The model.
            datamodule: The data set; or, with --data.images, files to look for neighbours in.
            ckpt_path: Checkpoint whose features are probed.
            k: Nearest training images, by cosine, that vote for a class.
            c: Inverse strength of the L2 penalty of the logistic regression, as in scikit-learn;
                by default that of 0.01 to 100 which has the most validation images right.
            layer: Block whose features are taken, from 0, or from the last: -1, -2, …
            pool: Features of the class token, or the average of the patches.
            query: With --data.images: files whose neighbours are looked for.
            out: Folder to make; probe by default, or probe-2 and so on.
        """
        if k < 1:
            raise InputError(f"k {k} must be 1 or more; change --k")
        if query and datamodule.image_paths is None:
            raise InputError("--query looks among images of yours; give --data.images too")
        if c is not None and not 0 < c < math.inf:
            raise InputError(f"c {c} is not positive; change --c, or leave it out to search for it")
        feature = Feature(layer, pool)
        feature.check(model.vit)
        if ckpt_path is not None:
            load_body(model, Path(ckpt_path))
        device = self.strategy.root_device
        vit = model.vit.to(device, weights_dtype(self.precision)).eval()
        compute = in_precision(lambda x: feature(vit, x), self.precision, device.type)
        extract = extractor(compute, device)
        with new_folder(named_or_free(out, PROBE_FOLDER)) as folder:
            if datamodule.image_paths is not None:
                lines = find_alike(datamodule, extract, folder, query=query)
            else:
                about = {
                    "weights": ckpt_path or model.hparams["pretrained"],
                    "layer": layer,
                    "pool": pool,
                }
                found = probe_data_set(datamodule, extract, folder, k=k, c=c, about=about)
                lines = found.lines
        self._print(*lines, f"wrote       {folder}")

    def _print(self, *lines: str) -> None:
        if self.is_global_zero:
            print(*lines, sep="\n")


def load_body(model: Classifier, path: Path) -> None:
    """Load a checkpoint's weights but for the head, which may be for other classes."""
    head = ("vit.head.weight", "vit.head.bias")
    state = checkpoint.read_checkpoint(path)["state_dict"]
    own = {name: value for name, value in model.state_dict().items() if name in head}
    model.load_state_dict({**state, **own})


def _subjects(data: ImageData, count: int | None) -> Subjects:
    """What is to be explained; refused before anything is read if it is too much."""
    if data.image_paths is not None:
        data.setup("predict")
        split = data.splits["predict"]
        most = len(split) if count is None else count
        check_count(most)
        members = split.members[:most]
        names = [printable(file) for file in data.files[:most]]
        if len(members) < len(split):
            rank_zero_info(f"the first {len(members)} of {len(split)} images, as --count says")
        assert isinstance(split.images, FileImages)
        pixels, bad = split.images.read(members)
        refuse_bad_images(
            bad, len(members), "mend them, or leave them out of images", argument="images"
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


def _load_weights(model: Classifier, ckpt_path: str | None) -> None:
    if ckpt_path is not None:
        model.load_state_dict(checkpoint.read_checkpoint(Path(ckpt_path))["state_dict"])
