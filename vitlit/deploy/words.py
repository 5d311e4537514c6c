"""What is said about an export: how to load it, what it takes and gives.

Portable, format, folder -> lines for the terminal and for the model card
"""

from pathlib import Path
from typing import Literal, NamedTuple

from vitlit.deploy.portable import Naming, Portable
from vitlit.deploy.preprocessing import output_name
from vitlit.deploy.programs import ONNX_NAME, PT2_NAME
from vitlit.deploy.transformers_kinds import class_of
from vitlit.deploy.web import WEB_NAME
from vitlit.messages import LINE_WIDTH, filled

ExportFormat = Literal["safetensors", "onnx", "pt2", "web"]


class Words(NamedTuple):
    """An export, in words.

    folder: where it is; moved: with preprocessing inside, the maximum difference of its answers
    from those of predict, else None.
    """

    portable: Portable
    format: ExportFormat
    naming: Naming
    folder: Path
    moved: float | None = None

    def load_line(self) -> str:
        """The line of code that loads it; of a page, its path."""
        folder = self.folder.as_posix()  # a backslash would begin an escape in code
        match self.format, self.naming:
            case "safetensors", "vitlit":
                return f'vitlit.load("{folder}")'
            case "safetensors", "timm":
                return f'timm.create_model("local-dir:{folder}", pretrained=True)'
            case "safetensors", _:
                name = class_of(self.portable.arguments)
                # the pooler of its ViT is a layer that we have no weights for
                option = ", add_pooling_layer=False" if name == "ViTModel" else ""
                return f'transformers.{name}.from_pretrained("{folder}"{option})'
            case "onnx", _:
                return f'onnxruntime.InferenceSession("{folder}/{ONNX_NAME}")'
            case "web", _:
                return str(self.folder / WEB_NAME)
        return f'torch.export.load("{folder}/{PT2_NAME}").module()'

    def hub_line(self, repository: str) -> str:
        """The line of code that loads it from the Hugging Face hub."""
        here = self._replace(folder=Path(repository)).load_line()
        if self.format == "safetensors":
            return here.replace("local-dir:", "hf-hub:")
        file = ONNX_NAME if self.format == "onnx" else PT2_NAME
        download = f'huggingface_hub.hf_hub_download("{repository}", "{file}")'
        return here.replace(f'"{repository}/{file}"', download)

    def interface(self) -> str:
        """What it takes and gives, in a sentence without its full stop."""
        portable = self.portable
        width = len(portable.class_names) or portable.model.embed_dim
        if self.moved is not None:
            return (
                f"it takes one image, uint8 (height, width, 3) of any size, and returns "
                f"{output_name(portable)} ({width},)"
            )
        shape = ", ".join(map(str, portable.input_size))
        rows = (portable.mean, portable.std)
        mean, std = (", ".join(f"{value:.6g}" for value in row) for row in rows)
        return (
            f"it takes images (B, {shape}), normalised as (pixels / 255 - mean) / std with mean "
            f"[{mean}] and std [{std}], and returns {portable.output} (B, {width})"
            f"{portable.task.output_words() if portable.class_names else ''}"
        )

    def message(self, files: list[Path], difference: float, remarks: list[str]) -> str:
        """For the terminal. difference: of the logits, relative to the largest."""
        lines = [filled(f"wrote {self.folder}: {', '.join(file.name for file in files)}")]
        lines += map(filled, remarks)
        load = self.load_line()
        if self.format == "web":
            size = (self.folder / WEB_NAME).stat().st_size / 1e6
            lines.append(f"open it in a browser: {load} ({size:.1f} MB)")
        else:
            # code that is to be copied has a line to itself rather than a break
            joint = "\n  " if len(f"load it with {load}") > LINE_WIDTH else " "
            lines += [f"load it with{joint}{load}", filled(self.interface())]
        output = self.portable.output
        lines.append(f"read back, its {output} differ by at most {difference:.1e} of the largest")
        if self.moved is not None:
            lines.append(
                filled(
                    f"for images of noise, its {output_name(self.portable)} differ by at most "
                    f"{self.moved:.1e} from those of predict"
                )
            )
        return "\n".join(lines)
