"""Weights that do not tell everything: what their user gives, what is assumed, and what is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm_weights import folder_of, written
from torch import nn

import vitlit
from vitlit.deploy.export import export_model
from vitlit.errors import InputError
from vitlit.images.preprocess import Preprocess
from vitlit.weights.load import load
from vitlit.weights.pretrained import load_weights


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def assert_same(reference: nn.Module, model: nn.Module, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (8, 48)])  # 24 patches, so 25 positions
def test_a_given_size_tells_the_grid_of_a_bare_rectangle(
    size: tuple[int, int], tmp_path: Path
) -> None:
    reference = written(tmp_path / "a.pth", img_size=size)
    model = load(tmp_path / "a.pth", img_size=list(size), num_heads=4).model
    assert_same(reference, model, size)


def test_a_class_token_has_a_position_unless_something_speaks_against_it(tmp_path: Path) -> None:
    """25 positions are no 5x5 patches."""
    written(tmp_path / "a.pth", img_size=(16, 24))
    with pytest.raises(InputError, match=r"25 positions .* 24 patches of 4x4 .*height and width"):
        load_weights(tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"of the weights as img_size, height and width") as caught:
        load(tmp_path / "a.pth")
    assert caught.value.arguments == ("img_size",)
    assert "--" not in str(caught.value)  # options are of the command line


@pytest.mark.parametrize("changes", [{"reg_tokens": 1}, {"init_values": 0.1}], ids=str)
def test_models_known_to_leave_the_class_token_without_a_position_are_read(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """DeiT III and timm's models with registers."""
    changes = {**changes, "no_embed_class": True, "img_size": 20, "num_heads": 1}
    reference = written(tmp_path / "a.pth", **changes)
    weights = load_weights(tmp_path / "a.pth")
    assert_same(reference, load(tmp_path / "a.pth").model, (20, 20))
    assert any("none for the class token" in note for note in weights.notes)


def test_a_given_size_decides_between_two_readings_aloud(tmp_path: Path) -> None:
    reference = written(tmp_path / "a.pth", img_size=(8, 32))  # 16 patches, a square number
    given = {"img_size": [8, 32], "num_heads": 4}
    assert any("though 4x4 fits too" in n for n in load_weights(tmp_path / "a.pth", given)[5])
    assert_same(reference, load(tmp_path / "a.pth", **given).model, (8, 32))


def test_a_square_is_said_to_be_assumed(tmp_path: Path) -> None:
    written(tmp_path / "a.pth")
    notes = load_weights(tmp_path / "a.pth").notes
    assert "img_size 16 assumed: the positions fit a square of 4x4 patches" in notes


def test_what_a_bare_file_cannot_tell_of_its_pooling_is_said(tmp_path: Path) -> None:
    """The average of the patches after the norm has the very same weights as the class token."""
    changes = {"global_pool": "avg", "fc_norm": False}
    reference = written(tmp_path / "a.pth", **changes)
    told = [n for n in load_weights(tmp_path / "a.pth").notes if "global_pool token assumed" in n]
    assert "the outputs are wrong" in told[0]
    given = load_weights(tmp_path / "a.pth", {"global_pool": "avg"})
    assert not any("global_pool" in note for note in given.notes)
    config = {"architecture": "vit_tiny_patch16_224", "global_pool": "avg"}
    config |= {"model_args": {"num_heads": 4}}
    (tmp_path / "folder").mkdir()
    save_file(reference.state_dict(), tmp_path / "folder" / "model.safetensors")
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    assert not any("global_pool" in note for note in load_weights(tmp_path / "folder").notes)
    assert_same(reference, load(tmp_path / "folder").model, (16, 16))


@pytest.mark.parametrize("changes", [{"global_pool": "avg"}, {"class_token": False}], ids=str)
def test_a_pooling_that_the_weights_tell_is_not_said_to_be_assumed(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"global_pool": "avg", **changes}
    reference = written(tmp_path / "a.pth", **changes)
    assert not any("global_pool" in note for note in load_weights(tmp_path / "a.pth").notes)
    assert_same(reference, load(tmp_path / "a.pth", num_heads=4).model, (16, 16))


def test_given_heads_are_taken_without_the_word_assumed(tmp_path: Path) -> None:
    reference = written(tmp_path / "a.pth")
    weights = load_weights(tmp_path / "a.pth", {"num_heads": 4})
    assert not any("num_heads" in note for note in weights.notes)
    assert_same(reference, load(tmp_path / "a.pth", num_heads=4).model, (16, 16))


def test_loading_at_another_size_resamples_the_positions(tmp_path: Path) -> None:
    reference = written(tmp_path / "a.pth", num_heads=1)
    model = load(tmp_path / "a.pth", img_size=[24, 16]).model
    reference.set_input_size((24, 16))
    assert_same(reference, model, (24, 16))


def test_heads_that_contradict_the_file_are_refused_in_python(tmp_path: Path) -> None:
    folder_of(tmp_path, {"num_attention_heads": 4})
    with pytest.raises(InputError, match=r"num_heads 2 contradicts .* says 4"):
        load(tmp_path, num_heads=2)


def test_a_checkpoint_takes_no_facts_from_its_user(tmp_path: Path) -> None:
    arguments = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10}
    arguments |= {"embed_dim": 16, "depth": 1, "num_heads": 4}
    state = {f"vit.{name}": value for name, value in vitlit.ViT(**arguments).state_dict().items()}
    data = {"dataset": "digits", "patch_size": 2}
    parts = {"hyper_parameters": arguments, "datamodule_hyper_parameters": data}
    torch.save({"state_dict": state, **parts}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="states its own num_heads; leave it out"):
        load(tmp_path / "a.ckpt", num_heads=4)
    state["vit.norm.bias"][3] = torch.inf
    torch.save({"state_dict": state, **parts}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"norm\.bias of .* NaN or infinite"):
        load(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pos_embed": "sincos2d", "global_pool": "avg"},
        {"rope": "index", "pos_embed": "none", "init_values": 0.1, "reg_tokens": 2},
        {"attention": "gpsa", "gpsa_blocks": 1, "patch_embed": "conv_stem", "stem_convs": 2},
        {"patch_embed": "conv_stem", "stem_convs": 2, "stem_norm": "batch"},
        {"attention": "lsa", "global_pool": "seq", "patch_embed": "shifted"},
        {"global_pool": "map", "drop_path_rate": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_a_model_is_as_it_was_saved_and_depends_no_more_on_the_file(
    name: str, changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither on the generator, which it leaves as it is; and nothing is said to be changed."""
    arguments = {"img_size": 16, "patch_size": 4, "num_classes": 10, "embed_dim": 16, "depth": 2}
    model = vitlit.ViT(**arguments, num_heads=2, **changes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    path = tmp_path / name
    if name == "a.ckpt":
        state = {f"vit.{name}": value for name, value in model.state_dict().items()}
        data = {"dataset": "cifar10", "patch_size": 4}
        parts = {"hyper_parameters": model.config, "datamodule_hyper_parameters": data}
        torch.save({"state_dict": state, **parts}, path)
    else:
        preprocess = Preprocess(3, (16, 16), (16, 16), (0.5,) * 3, (0.5,) * 3)
        names = [str(number) for number in range(10)]
        export_model(model, preprocess, names, tmp_path / "new", naming="vitlit")
        path = tmp_path / "new" / "model.safetensors"
    before = torch.get_rng_state()
    loaded = load(path).model
    assert torch.equal(torch.get_rng_state(), before)
    assert "positions" not in caplog.text
    path.write_bytes(bytes(path.stat().st_size))  # in place: what is mapped into memory changes
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("value", [-torch.inf, torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    model = written(tmp_path / "a.pth")
    model.blocks[1].attn.qkv.weight.data[3, 4] = value
    torch.save(model.state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.qkv\.weight of .* holds 1 numbers"):
        load_weights(tmp_path / "a.pth")


def test_python_hears_what_the_command_line_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "a.pth")
    with caplog.at_level("INFO"):
        load(tmp_path / "a.pth")
    assert "num_heads 1 assumed" in caplog.text
    assert "mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225 assumed" in caplog.text
    assert "do not name their 5 classes; they are assumed to be 0, 1, 2" in caplog.text


def test_imagenets_names_are_said_to_be_assumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "a.pth", num_classes=1000)
    with caplog.at_level("INFO"):
        assert load(tmp_path / "a.pth").class_names[0] == "tench"
    assert "assumed to be those of ImageNet: tench" in caplog.text


def test_fewer_labels_than_classes_are_left_out_with_a_word(tmp_path: Path) -> None:
    folder_of(tmp_path, {"id2label": {"0": "cat", "1": "dog"}}, num_classes=3)
    weights = load_weights(tmp_path)
    assert weights.class_names is None
    assert any("names 2 classes (cat, dog), but the head has 3" in n for n in weights.notes)


def test_a_label_that_occurs_twice_gets_its_number(tmp_path: Path) -> None:
    """Hugging Face's names of ImageNet have two kinds of crane by one name."""
    folder_of(tmp_path, {"id2label": {"0": "crane", "1": "dog", "2": "crane"}}, num_classes=3)
    assert load_weights(tmp_path).class_names == ["crane (0)", "dog", "crane (2)"]


def refusal(state: Any, file: Path) -> str:
    torch.save(state, file)
    with pytest.raises(InputError) as caught:
        load_weights(file)
    return str(caught.value)


def test_swins_foreign_and_missing_parts_are_named(tmp_path: Path) -> None:
    model = timm.models.swin_transformer.SwinTransformer(depths=(1,), num_heads=(2,), embed_dim=16)
    message = refusal(model.state_dict(), tmp_path / "a")
    assert "another architecture" in message
    assert "layers.0.blocks.0" in message
    assert "no blocks.0.mlp and no learned positions" in message


def test_a_whole_model_is_refused_with_the_way_to_save_its_weights(tmp_path: Path) -> None:
    message = refusal(written(tmp_path / "a"), tmp_path / "b")
    assert "torch.save(model.state_dict(), FILE)" in message


def test_truncated_safetensors_are_said_to_be_cut_short(tmp_path: Path) -> None:
    folder_of(tmp_path, {})
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r"truncated or damaged .* download it again"):
        load_weights(file)


@pytest.mark.parametrize(("name", "way"), [("a.pth", "such as a.pth"), ("a.txt", "give a file or")])
def test_a_folder_without_weights_tells_what_was_looked_for(
    name: str, way: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("nothing")
    with pytest.raises(InputError, match=f"model.safetensors .*_model.bin.*best.ckpt; .*{way}"):
        load_weights(tmp_path)


def test_the_public_names_are_listed() -> None:
    assert set(vitlit.__all__) <= set(dir(vitlit))


def test_what_the_source_or_its_user_tells_is_not_assumed(tmp_path: Path) -> None:
    def assumed(source: Path, given: dict[str, Any]) -> set[str]:
        return {note.split()[0] for note in load_weights(source, given).notes if "assumed" in note}

    told = {"layer_norm_eps": 1e-5, "hidden_act": "gelu", "num_attention_heads": 4}
    assert not assumed(folder_of(tmp_path, told), {}) & {"norm_eps", "act"}
    written(tmp_path / "w.pth")
    assert assumed(tmp_path / "w.pth", {}) >= {"norm_eps", "act"}
    assert assumed(tmp_path / "w.pth", {"norm_eps": 1e-5}) & {"norm_eps", "act"} == {"act"}


def test_the_pooling_can_be_given_for_weights_that_do_not_tell_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The argument that the note asks for."""
    reference = written(tmp_path / "a.pth", global_pool="avg", fc_norm=False)
    model = load(tmp_path / "a.pth", num_heads=4, global_pool="avg").model
    assert "global_pool token assumed" not in caplog.text
    assert_same(reference, model, (16, 16))
    told = written(tmp_path / "b.pth", global_pool="avg")  # whose fc_norm shows it
    assert_same(told, load(tmp_path / "b.pth", num_heads=4).model, (16, 16))
    with pytest.raises(InputError, match="tells how its tokens are pooled; leave global_pool out"):
        load(tmp_path / "b.pth", num_heads=4, global_pool="avg")
