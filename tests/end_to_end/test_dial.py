"""The dial of the inductive bias on the whole model: every setting, in every use of a model."""

import itertools
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitlit import ImageData, load
from vitlit.__main__ import main
from vitlit.deploy.export import export_model
from vitlit.deploy.portable import model_arguments
from vitlit.errors import InputError
from vitlit.explain.analysis import analyse_weights, attention_fact, head_arrays
from vitlit.explain.attribution import attention_maps, patch_map, pooled_shares, relevance, rollout
from vitlit.explain.explanation import explain_images
from vitlit.explain.findings import Subjects
from vitlit.images.preprocess import Preprocess
from vitlit.model.patch_embed import PatchEmbed
from vitlit.model.positions import rope2d, rope_similarity
from vitlit.model.vit import ViT
from vitlit.training.optim.groups import freeze, parameter_groups
from vitlit.weights.adapt import adapt_weights
from vitlit.weights.pretrained import Weights, load_weights

SMALL: dict[str, Any] = {
    "img_size": [8, 12],
    "patch_size": 4,
    "num_classes": 3,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "stem": {"patch_embed": "conv_stem"},
    "shifted": {"patch_embed": "shifted"},
    "lsa": {"attention": "lsa"},
    "gpsa": {"attention": "gpsa", "gpsa_blocks": 2, "locality_strength": 0.5},
    "rope": {"pos_embed": "rope"},
    "seq": {"global_pool": "seq"},
    "structured": {"attention_init": "structured"},
    "map": {
        "global_pool": "map",
        "pool_heads": 4,
        "reg_tokens": 1,
        "pool_include_prefix": True,
        "rope": "centred",
    },
    "norms": {
        "pre_norm": True,
        "embed_norm": True,
        "qk_norm": True,
        "sub_norm": "both",
        "norm": "rms",
        "mlp": "swiglu",
    },
    "cct with gpsa": {
        "patch_embed": "conv_stem",
        "attention": "gpsa",
        "pos_embed": "rope",
        "global_pool": "seq",
        "reg_tokens": 2,
        "in_chans": 1,
    },
    "spt with lsa": {
        "patch_embed": "shifted",
        "attention": "lsa",
        "pos_embed": "rope",
        "class_token": True,
        "global_pool": "avg",
        "init_values": 0.1,
    },
}
EACH = pytest.mark.parametrize("changes", SETTINGS.values(), ids=list(SETTINGS))
TOGETHER = ("cct with gpsa", "spt with lsa")  # in these two is each setting
EACH_IF_SLOW = pytest.mark.parametrize(
    "changes",
    [
        pytest.param(changes, id=name, marks=[] if name in TOGETHER else pytest.mark.slow)
        for name, changes in SETTINGS.items()
    ],
)
NAMES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def small(**changes: Any) -> ViT:
    """A model, as training leaves it, with no parameter at zero."""
    model = ViT(**{**SMALL, **changes})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def images_for(model: ViT, count: int = 2) -> Tensor:
    return torch.randn(count, model.in_chans, *model.img_size)


def preprocess_of(model: ViT, **changes: Any) -> Preprocess:
    size, channels = model.img_size, model.in_chans
    usual: dict[str, Any] = {"in_chans": channels, "source_size": size, "img_size": size}
    return Preprocess(**{**usual, "mean": (0.4,) * channels, "std": (0.2,) * channels, **changes})


KINDS: dict[str, list[Any]] = {
    "patch_embed": ["linear", "conv", "conv_stem", "shifted"],
    "attention": ["softmax", "lsa", "gpsa"],
    "global_pool": ["token", "avg", "seq"],
    "pos_embed": ["learn", "rope"],
    "reg_tokens": [0, 2],
    "in_chans": [1, 3],
}
PRODUCT = list(itertools.product(*KINDS.values()))


def pairs_of(row: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    return set(itertools.combinations(enumerate(row), 2))


def cover_of_pairs() -> list[tuple[Any, ...]]:
    """Rows that hold any two values of any two settings, each the one with most new pairs."""
    missing, rows = set().union(*map(pairs_of, PRODUCT)), []
    while missing:
        rows.append(max(PRODUCT, key=lambda row: len(pairs_of(row) & missing)))
        missing -= pairs_of(rows[-1])
    return rows


COVER = cover_of_pairs()


@pytest.mark.parametrize(
    "rows", [COVER, pytest.param(PRODUCT, marks=pytest.mark.slow)], ids=["pairs", "all"]
)
def test_all_settings_go_together_and_every_parameter_learns(rows: list[tuple[Any, ...]]) -> None:
    for row in rows:
        model = small(**dict(zip(KINDS, row, strict=True)))
        model(images_for(model)).square().sum().backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert idle == [], row


@EACH
def test_a_step_against_the_gradient_lowers_the_loss(changes: dict[str, Any]) -> None:
    model = small(**changes).double()
    images, labels = images_for(model, 6).double(), torch.arange(6) % 3
    before = nn.functional.cross_entropy(model(images), labels)
    before.backward()
    with torch.no_grad():
        steps = sum(p.grad.square().sum().item() for p in model.parameters())
        for parameter in model.parameters():
            parameter -= 1e-6 * parameter.grad
    after = nn.functional.cross_entropy(model(images), labels)
    assert (before - after).item() == pytest.approx(1e-6 * steps, rel=0.01)


@EACH
def test_the_state_alone_gives_the_same_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    model, other = small(**changes).eval(), small(**changes).eval()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    images = images_for(model)
    assert torch.equal(other(images), model(images))


@EACH
def test_the_arguments_of_a_model_make_it_again(changes: dict[str, Any]) -> None:
    told = model_arguments(small(**changes))
    expected = dict(changes)
    if changes.get("pos_embed") == "rope":  # the older name
        expected |= {"pos_embed": "none", "rope": "index"}
    assert {name: told[name] for name in expected} == expected


@EACH
def test_the_config_of_a_model_makes_an_equal_one(changes: dict[str, Any]) -> None:
    model = small(**changes, drop_path_rate=0.1, proj_drop_rate=0.2)
    again = ViT(**json.loads(json.dumps(model.config)))  # as a file holds it
    assert again.config == model.config
    assert str(again) == str(model)  # every layer, with its settings
    again.load_state_dict(model.state_dict())
    images = images_for(model)
    assert torch.equal(again.eval()(images), model.eval()(images))


@EACH
def test_our_own_safetensors_hold_any_model(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small(**changes).eval()
    preprocess = preprocess_of(model, invert=True)
    folder = export_model(model, preprocess, NAMES, tmp_path / "out", naming="vitlit").folder
    weights = load_weights(folder)
    assert {path.name for path in folder.iterdir()} == {"README.md", "model.safetensors"}
    loaded = ViT(**weights.arguments).eval()
    loaded.load_state_dict(weights.state)
    shape = (2, model.in_chans, *model.img_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    mean, std = (torch.tensor(row).view(-1, 1, 1) for row in (weights.mean, weights.std))
    torch.testing.assert_close(loaded((pixels / 255 - mean) / std), model(preprocess(pixels)))


@pytest.mark.parametrize(
    ("name", "format"),
    [
        (TOGETHER[0], "onnx"),
        (TOGETHER[1], "pt2"),
        pytest.param(TOGETHER[0], "pt2", marks=pytest.mark.slow),
        pytest.param(TOGETHER[1], "onnx", marks=pytest.mark.slow),
    ],
)
def test_programs_hold_any_model(name: str, format: Any, tmp_path: Path) -> None:
    model = small(**SETTINGS[name])
    found = export_model(model, preprocess_of(model), NAMES, tmp_path / "out", format=format)
    assert found.difference < 1e-5


@pytest.mark.parametrize(
    ("naming", "setting", "value"),
    [
        *(
            (naming, *setting)
            for naming in ("timm", "huggingface")
            for setting in [
                ("patch_embed", "conv_stem"),
                ("patch_embed", "shifted"),
                ("attention", "lsa"),
                ("attention", "gpsa"),
                ("global_pool", "seq"),
            ]
        ),
        ("huggingface", "rope", "index"),
    ],
)
def test_what_others_have_no_name_for_is_refused(
    setting: str, value: str, naming: Any, tmp_path: Path
) -> None:
    model = small(**{setting: value})
    with pytest.raises(InputError, match=f"{naming} has no models with {setting} {value}.*vitlit"):
        export_model(model, preprocess_of(model), NAMES, tmp_path / "out", naming=naming)


@EACH
def test_attention_maps_are_what_the_model_computes(changes: dict[str, Any]) -> None:
    """The last block's output, from its input and the maps alone."""
    model = small(**changes).double()
    images = images_for(model).double()
    found = attention_maps(model, images)
    seen: list[Tensor] = []
    block = model.eval().blocks[-1]
    hook = block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    tokens = model.forward_features(images)
    hook.remove()
    values = block.attn.project(block.norm1(seen[0]))[2]
    mixed = (found.maps[-1] @ values).transpose(1, 2).flatten(2)
    mixed = block.attn.proj(mixed if block.attn.norm is None else block.attn.norm(mixed))
    x = seen[0] + block.ls1(mixed)
    torch.testing.assert_close(model.norm(x + block.ls2(block.mlp(block.norm2(x)))), tokens)


@EACH
def test_rollout_and_relevance_are_finite(changes: dict[str, Any]) -> None:
    model = small(**changes)
    images = images_for(model)
    flow = rollout(attention_maps(model, images).maps, prefix=model.num_prefix_tokens)
    torch.testing.assert_close(flow.sum(dim=-1), torch.ones(flow.shape[:2]))
    assert relevance(model, images, torch.tensor([0, 2])).isfinite().all()


def test_relevance_of_gpsa_takes_the_gradient_of_its_whole_attention() -> None:
    """Against autograd through the explicit matrices of a model of one block."""
    changes = {**SETTINGS["gpsa"], "depth": 1, "gpsa_blocks": 1}
    model = small(**changes).double().eval()
    images, attn = images_for(model).double(), model.blocks[0].attn
    kept: list[Tensor] = []
    compare = attn.compare
    attn.compare = lambda q, k: kept.append(compare(q, k)) or kept[-1]
    chosen = model(images)[:, 1].sum()
    (gradient,) = torch.autograd.grad(chosen, kept)
    del attn.compare
    expected = torch.eye(7) + (gradient * kept[0]).clamp(min=0).mean(dim=1)
    found = relevance(model, images, torch.tensor([1, 1]))
    torch.testing.assert_close(found, expected.detach())


@EACH_IF_SLOW
def test_the_folder_of_explain_is_complete(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small(**changes)
    pixels = torch.randint(0, 256, (2, model.in_chans, *model.img_size), dtype=torch.uint8)
    subjects = Subjects(["one", "two"], pixels, torch.tensor([0, -1]))
    explain_images(model, subjects, preprocess_of(model), NAMES, tmp_path)
    assert (tmp_path / "positions.png").is_file()
    with np.load(tmp_path / "arrays.npz") as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
    assert shapes["rollout"] == (2, 2, 3)
    gated = changes.get("gpsa_blocks", 1)
    assert shapes.get("temperature") == ((3, 2) if model.config["attention"] == "lsa" else None)
    assert shapes.get("gate") == ((gated, 2) if model.config["attention"] == "gpsa" else None)
    assert shapes.get("shares") == ((2, 2, 3) if model.global_pool in ("seq", "map") else None)


def test_sequence_pooling_is_explained_in_its_own_shares() -> None:
    model = small(global_pool="seq", reg_tokens=1).eval()
    images, place = images_for(model), {"grid": (2, 3), "prefix": 1}
    shares = pooled_shares(model, images)
    tokens = model.forward_features(images)[:, 1:]
    expected = (tokens @ model.seq_pool.score.weight[0]).softmax(dim=1)
    torch.testing.assert_close(shares[:, 1:], expected)
    assert shares[:, 0].tolist() == [0, 0]  # of the register
    maps = attention_maps(model, images).maps[-1].mean(dim=1)
    rows = [
        sum(share * row[1:] for share, row in zip(own, matrix, strict=True))
        for own, matrix in zip(shares, maps, strict=True)
    ]
    expected = torch.stack(rows).view(2, 2, 3)
    found = patch_map(maps, **place, pool="seq", shares=shares)
    torch.testing.assert_close(found, expected)


def test_sequence_pooling_is_not_explained_without_its_shares() -> None:
    with pytest.raises(InputError, match="give shares with seq"):
        patch_map(torch.ones(7, 7), grid=(2, 3), prefix=1, pool="seq")


def test_rope_shows_how_places_fit() -> None:
    similarity, _ = analyse_weights(small(pos_embed="rope"))
    torch.testing.assert_close(similarity, rope_similarity(rope2d((2, 3), 8)).view(6, 2, 3))


def test_the_page_tells_temperatures_and_gates() -> None:
    lsa, gpsa = small(attention="lsa"), small(attention="gpsa")
    for block in lsa.blocks:
        nn.init.constant_(block.attn.sharpness, 0.5 * block.attn.scale)
    nn.init.constant_(gpsa.blocks[0].attn.gate, 0.0)
    assert attention_fact(lsa) == "lsa, temperatures 2.00"
    assert attention_fact(gpsa) == "gpsa in block 0, position counts 50%"
    assert head_arrays(small()) == {}


@EACH
def test_an_optimiser_spares_what_is_no_matrix(changes: dict[str, Any]) -> None:
    model = small(**changes)
    decayed, _ = parameter_groups(model, weight_decay=0.1, decay="matrices")
    names = {id(p): n for n, p in model.named_parameters()}
    endings = {names[id(p)].split(".", 2)[-1] for p in decayed["params"]}
    allowed = {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
    allowed |= {"weight", "0.weight", "1.weight"}  # of the head, the embedding, the pooling
    allowed |= {"fc1.weight", "fc2.weight"}  # of the pooling's MLP
    assert endings <= allowed


@EACH
def test_layers_of_the_dial_freeze_with_their_blocks(changes: dict[str, Any]) -> None:
    model = small(**changes)
    freeze(model, 1, depth=3)
    frozen = {n.split(".")[0] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen - {"cls_token", "reg_token", "pos_embed", "norm_pre"} == {"patch_embed", "blocks"}
    assert all(p.requires_grad for p in model.blocks[1].parameters())


def adapted(before: dict[str, Any], after: dict[str, Any]) -> tuple[ViT, ViT, list[str]]:
    old, new = small(**before), small(**after)
    weights = Weights(old.state_dict(), {**SMALL, **before}, None, None, None, [])
    state, notes = adapt_weights(weights, new)
    new.load_state_dict(state)
    return old, new, notes


@EACH
def test_weights_of_the_same_setting_are_taken_as_they_are(changes: dict[str, Any]) -> None:
    old, new, notes = adapted(changes, changes)
    assert notes == []
    assert all(
        torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items()
    )


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ({}, {"attention": "lsa"}, "temperatures of lsa are new"),
        ({"attention": "lsa"}, {}, "temperatures of lsa dropped; the model has none"),
        ({"attention": "lsa"}, {"attention": "lsa", "num_heads": 4}, "another number"),
        ({}, {"attention": "gpsa"}, "gates of gpsa are new"),
        ({"attention": "gpsa"}, {"attention": "gpsa", "gpsa_blocks": 2}, "gates of gpsa are new"),
        ({}, {"attention": "gpsa"}, "the model has attention gpsa; the weights had softmax"),
        ({}, {"pos_embed": "rope"}, "positions dropped; the model has rotary ones"),
        ({"pos_embed": "rope"}, {}, "the model's are new; the weights have none"),
        ({}, {"global_pool": "seq"}, "scores of the pooling are new"),
        ({"global_pool": "seq"}, {}, "scores of the pooling dropped; the model has none"),
    ],
    ids=str,
)
def test_another_setting_starts_from_what_the_weights_have(
    before: dict[str, Any], after: dict[str, Any], note: str
) -> None:
    assert any(note in found for found in adapted(before, after)[2])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("conv", {"patch_embed": "shifted"}, "patch_embed shifted cannot start from .* conv;"),
        ("conv_stem", {"patch_embed": "conv"}, "patch_embed conv cannot start from .* conv_stem"),
        (
            "conv_stem",
            {"patch_embed": "conv_stem", "patch_size": 2},
            "patch_size 2 .* give 4",
        ),
        (
            "shifted",
            {"patch_embed": "shifted", "in_chans": 1},
            "in_chans 1 .* give 3",
        ),
    ],
)
def test_another_patch_embedding_is_refused(
    before: str, after: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        adapted({"patch_embed": before, "in_chans": 3}, after)


@pytest.mark.parametrize("kind", ["conv_stem", "shifted"])
def test_embeddings_that_overlap_take_no_patches(kind: str) -> None:
    model = small(patch_embed=kind)
    assert not isinstance(model.patch_embed, PatchEmbed)
    with pytest.raises(InputError, match=r"it takes images \(B, 3, 8, 12\)$"):
        model(torch.zeros(2, 6, 48))


@EACH_IF_SLOW
def test_a_compiled_model_computes_the_same(changes: dict[str, Any]) -> None:
    model = small(**changes).train()
    images = images_for(model)
    eager = model(images)
    model.compile(backend="aot_eager")
    torch.testing.assert_close(model(images), eager)


@EACH
def test_a_model_made_without_memory_computes_once_it_has_weights(changes: dict[str, Any]) -> None:
    model, images = small(**changes).eval(), None
    with torch.device("meta"):
        empty = ViT(**{**SMALL, **changes}).eval()
    empty.load_state_dict(model.state_dict(), assign=True)
    images = images_for(model)
    assert torch.equal(empty(images), model(images))


DIGITS = [
    "fit",
    "--data.dataset=digits",
    "--data.batch_size=64",
    "--ema.decay=0.9",
    "--model.embed_dim=16",
    "--model.depth=2",
    "--model.num_heads=2",
    "--model.patch_size=2",
    "--model.schedule=constant",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
LOCAL = ["--model.patch_embed=conv_stem", "--model.attention=gpsa", "--model.gpsa_blocks=1"]
SHIFT = ["--model.patch_embed=shifted", "--model.attention=lsa", "--model.global_pool=seq"]


def weights_after(folder: Path) -> dict[str, Tensor]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content["state_dict"]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("options", [LOCAL, SHIFT], ids=["local", "shifted"])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_never_cut(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [*DIGITS, *options, "--model.pos_embed=rope"]
    assert main([*args, "--trainer.max_epochs=2", "--run=whole"]) == 0
    assert main([*args, "--trainer.max_epochs=1", "--run=begun"]) == 0
    again = ["--ckpt_path=lightning_logs/begun/checkpoints/last.ckpt", "--run=again"]
    assert main([*args, "--trainer.max_epochs=2", *again]) == 0
    runs = [weights_after(tmp_path / "lightning_logs" / name) for name in ("whole", "again")]
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_checkpoint_of_the_dial_is_tested_explained_and_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [*DIGITS, *SHIFT]
    assert main([*args, "--trainer.max_epochs=1", "--run=first"]) == 0
    run = tmp_path / "lightning_logs" / "first"
    full = "--trainer.precision=32-true"  # as the model is loaded below
    assert main(["test", "--ckpt_path=last", "--trainer.accelerator=cpu", full]) == 0
    scores = json.loads((run / "test_report" / "metrics.json").read_text())["scores"]
    model, preprocess, _ = load(run / "checkpoints" / "last.ckpt")
    data = ImageData(patch_size=2)
    data.setup("test")
    split = data.splits["test"]
    with torch.no_grad():
        found = model(preprocess(split.images.gather(split.members))).argmax(dim=1)
    assert scores["acc"] == pytest.approx(float((found == split.labels).float().mean()))
    assert main(["explain", "--ckpt_path=last", "--count=2", "--trainer.accelerator=cpu"]) == 0
    with np.load(tmp_path / "explanation" / "arrays.npz") as arrays:
        assert (arrays["temperature"].shape, arrays["shares"].shape) == ((2, 2), (2, 4, 4))
    start = [arg for arg in DIGITS if not arg.startswith("--model.")]
    start += ["--model.pretrained=last", "--model.lr=1e-12", "--run=second"]
    assert main([*start, "--trainer.max_epochs=1"]) == 0
    kept = weights_after(tmp_path / "lightning_logs" / "second")
    torch.testing.assert_close(kept, weights_after(run))


@pytest.fixture(scope="module")
def fit_help() -> str:
    with redirect_stdout(StringIO()) as text, pytest.raises(SystemExit):
        main(["fit", "--help", "all"])
    return " ".join(text.getvalue().split())


@pytest.mark.parametrize(
    "words",
    [
        "SPT, Lee et al., 2021",
        "CCT, Hassani et al., 2021",
        "ConViT, d'Ascoli et al., 2021",
        "Heo et al., 2024",
        "sequence pooling of CCT",
        "--model.gpsa_blocks",
        "--model.locality_strength",
    ],
)
def test_the_help_explains_the_dial_with_its_papers(words: str, fit_help: str) -> None:
    assert words in fit_help
