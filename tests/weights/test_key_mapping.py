"""Names of other programs, and what goes with them."""

from typing import Any

import pytest
import torch
from timm.data import constants

from vitlit.deploy.portable import choose_naming, make_portable
from vitlit.errors import InputError
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.weights import weight_formats
from vitlit.weights.file_reader import is_dense
from vitlit.weights.key_mapping import positions_with_prefix, translate_keys

FILTERS = {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}


@pytest.mark.parametrize(
    ("rows", "class_token", "registers", "prefix"),
    [
        (4, 0, 0, []),
        (4, 1, 0, [0]),
        (4, 1, 2, [0, 0, 0]),
        (5, 1, 0, [1]),
        (5, 1, 2, [1, 0, 0]),
        (6, 0, 2, [1, 2]),
        (7, 1, 2, [1, 2, 3]),
        (6, 1, 2, None),
        (6, 1, 0, None),
        (5, 0, 0, None),
        (3, 1, 0, None),
    ],
)
def test_prefix_tokens_without_a_position_get_zeros(
    rows: int, class_token: int, registers: int, prefix: list[int] | None
) -> None:
    table = torch.arange(1.0, rows + 1).view(1, rows, 1)
    found = positions_with_prefix(table, patches=4, class_token=class_token, reg_tokens=registers)
    if prefix is None:
        assert found is None
        return
    assert found is not None
    assert found.flatten().tolist() == [*prefix, *table.flatten()[rows - 4 :].tolist()]


@pytest.mark.parametrize(
    ("more", "left", "note"),
    [
        ({"dist_token": (1, 1, 8)}, ["reg_token"], "the distillation token is kept as a register"),
        (
            {"head.weight": (3, 16), "norm.weight": (8,)},
            ["norm.weight"],
            "average together, of 3",
        ),
        ({"head.weight": (3, 8), "norm.weight": (8,)}, ["head.weight", "norm.weight"], None),
        ({"head.weight": (3, 24), "norm.weight": (8,)}, ["head.weight", "norm.weight"], None),
        ({"head.weight": (3, 8), "head_dist.weight": (3, 8)}, [], "both heads"),
        ({"head.weight": (3, 8), "pre_logits.weight": (8, 8)}, [], "the representation layer"),
    ],
    ids=str,
)
def test_what_no_classifier_uses_is_dropped_aloud(
    more: dict[str, Any], left: list[str], note: str | None
) -> None:
    tensors = FILTERS | {name: torch.ones(shape) for name, shape in more.items()}
    found = translate_keys(tensors, "w.pth")
    assert found.state.keys() == FILTERS.keys() | set(left)
    assert [note is not None and note in line for line in found.notes] == [True] * (
        note is not None
    )


@pytest.mark.parametrize(("half", "pool"), [(0, "token"), (1, "avg")])
def test_a_head_of_dinov2_that_reads_one_half_of_its_inputs_is_kept(half: int, pool: str) -> None:
    weight = torch.zeros(3, 16)
    weight[:, 8 * half] = 1
    found = translate_keys(FILTERS | {"head.weight": weight, "norm.weight": torch.ones(8)}, "w")
    assert found.told["global_pool"] == pool
    assert found.state["head.weight"].sum(dim=1).tolist() == [1, 1, 1]


def test_arrays_beside_a_jax_model_are_dropped_with_their_number() -> None:
    tensors = {
        "params/embedding/kernel": torch.arange(48.0).view(4, 4, 3, 1),
        "opt/a": torch.zeros(1),
        "opt/b": torch.zeros(1),
    }
    found = translate_keys(tensors, "w.npz")
    filters = found.state["patch_embed.proj.weight"]
    assert torch.equal(filters, tensors["params/embedding/kernel"].permute(3, 2, 0, 1))
    assert found.notes == ["dropped 2 arrays outside params/"]


def test_heads_show_in_googles_queries_alone() -> None:
    block = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/"
    tensors = {
        "embedding/kernel": torch.zeros(4, 4, 3, 8),
        f"{block}query/kernel": torch.ones(8, 2, 4),
    }
    assert translate_keys(tensors, "w.npz").told == {"num_heads": 2}
    tensors[f"{block}query/kernel"] = torch.ones(8, 8)
    assert translate_keys(tensors, "w.npz").told == {}


@pytest.mark.parametrize("name", ["xpatch_embed.proj.weight", "other.weight"])
def test_a_file_without_patch_filters_is_no_vit(name: str) -> None:
    with pytest.raises(InputError, match=r"w\.pth holds no Vision Transformer that vitlit knows"):
        translate_keys({name: torch.zeros(8, 3, 4, 4)}, "w.pth")


@pytest.mark.parametrize(
    ("size", "classes", "output", "interpolation"),
    [(8, 0, "features", "bicubic"), (16, 2, "logits", "bilinear")],
)
def test_a_portable_model_says_what_goes_in_and_comes_out(
    size: int, classes: int, output: str, interpolation: str
) -> None:
    sizes: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1}
    model = ViT(**sizes, num_heads=1, num_classes=classes, in_chans=1, drop_path_rate=0.5)
    preprocess = Preprocess(1, (8, 8), (size, size), (0.5,), (0.25,))
    portable = make_portable(model, preprocess, [str(i) for i in range(classes)])
    assert (portable.output, portable.framing.interpolation) == (output, interpolation)
    assert portable.input_size == [1, 8, 8]
    assert not portable.model.training
    assert "drop_path_rate" not in portable.arguments
    with pytest.raises(InputError, match=f"{classes + 1} class names for {classes} outputs"):
        make_portable(model, preprocess, ["x"] * (classes + 1))


def test_statistics_that_all_files_of_a_program_share_are_those_of_timm() -> None:
    assert weight_formats.CLIP_MEAN == constants.OPENAI_CLIP_MEAN
    assert weight_formats.CLIP_STD == constants.OPENAI_CLIP_STD
    assert weight_formats.HALF == constants.IMAGENET_INCEPTION_MEAN


def test_dense_weights_are_numbers_that_are_there() -> None:
    row = torch.ones(2)
    assert is_dense(row)
    assert not any(map(is_dense, (row.long(), row.to_sparse(), row.to("meta"))))


def test_a_naming_that_cannot_tell_a_model_is_refused_with_what_to_change() -> None:
    arguments = ViT(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, attention="lsa")
    with pytest.raises(InputError, match="timm has no models with attention lsa") as found:
        choose_naming("timm", arguments.config)
    assert found.value.arguments == ("naming", "format")
