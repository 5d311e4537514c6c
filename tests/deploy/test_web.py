"""The exported page: its JavaScript, run by Node, must compute what PyTorch computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import web_pages
from PIL import Image
from small_vit import preprocess_of, small
from torch import Tensor

from vitlit.deploy.export import export_model
from vitlit.errors import InputError
from vitlit.explain.attribution import attention_maps, patch_map, pooled_shares, rollout
from vitlit.images.framing import Framing
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT

needs_node = pytest.mark.skipif(web_pages.NODE is None, reason="no node on PATH")
SMALL: dict[str, Any] = {
    "img_size": [8, 12],
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 3,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grey, averaged, flattened": {"in_chans": 1, "global_pool": "avg", "patch_embed": "linear"},
    "registers and LayerScale": {"reg_tokens": 2, "init_values": 0.1, "act": "gelu_tanh"},
    "sequence pooling of a stem": {"global_pool": "seq", "patch_embed": "conv_stem"},
    "stem of several convolutions": {"patch_embed": "conv_stem", "stem_convs": 2},
    "stem with batch norms": {
        "patch_embed": "conv_stem",
        "stem_convs": 2,
        "stem_norm": "batch",
    },
    "SPT and LSA": {"patch_embed": "shifted", "attention": "lsa", "pos_embed": "sincos2d"},
    "CLIP": {"pre_norm": True, "act": "quick_gelu", "norm_eps": 1e-5, "global_pool": "avg"},
    "gated, RMS": {"mlp": "swiglu", "norm": "rms", "sub_norm": "both", "qk_norm": True},
    "no positions": {"pos_embed": "none", "embed_norm": True, "qkv_bias": False},
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def small_vit(**changes: Any) -> ViT:
    return small(**{**SMALL, **changes}).float()


def page_of(model: ViT, preprocess: Preprocess, folder: Path) -> Path:
    names = [f"class {i}" for i in range(model.num_classes)]
    return export_model(model, preprocess, names, folder / "page", format="web").folder / (
        "index.html"
    )


def noise_photo(height: int, width: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def seen_by(model: ViT, x: Tensor, kept: list[int]) -> Tensor:
    """Logits of a model that gets only some of the patches: the tokens of the others left out."""
    tokens = model.embed(x)
    prefix = model.num_prefix_tokens
    places = [*range(prefix), *(prefix + patch for patch in kept)]
    return model.head(model.pool(model.norm(model.blocks(tokens[:, places]))))


@needs_node
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_page_computes_logits_and_rollout_of_the_model(kind: str, tmp_path: Path) -> None:
    model = small_vit(**KINDS[kind])
    preprocess = preprocess_of(model)
    page = page_of(model, preprocess, tmp_path)
    photo = noise_photo(*model.img_size)
    photo = photo if model.in_chans == 3 else photo[..., :1].repeat(3, axis=2)
    found = web_pages.answers(page, [photo])
    x = preprocess(torch.from_numpy(photo[..., : model.in_chans]).permute(2, 0, 1)[None])
    logits = model(x)[0]
    got = torch.tensor(found["found"][0]["logits"])
    torch.testing.assert_close(got, logits, rtol=0, atol=2e-5 * float(logits.abs().max()))
    assert found["check"] < 2e-5 * float(logits.abs().max()) + 1e-5
    maps = attention_maps(model, x).maps
    flow = rollout(maps, prefix=model.num_prefix_tokens)
    about: Any = {"grid": model.grid_size, "prefix": model.num_prefix_tokens}
    shares = pooled_shares(model, x)
    wanted = patch_map(flow, pool=model.global_pool, shares=shares, **about).flatten()
    torch.testing.assert_close(
        torch.tensor(found["found"][0]["rollout"]), wanted, rtol=1e-4, atol=1e-6
    )


@needs_node
@pytest.mark.parametrize("pool", ["token", "avg", "seq"])
@torch.no_grad()
def test_patches_that_are_taken_away_are_left_out_of_the_sequence(
    pool: str, tmp_path: Path
) -> None:
    model = small_vit(global_pool=pool)
    preprocess = preprocess_of(model)
    page = page_of(model, preprocess, tmp_path)
    photo, kept = noise_photo(*model.img_size), [0, 2, 5]
    (found,) = web_pages.answers(page, [photo], kept)["found"]
    x = preprocess(torch.from_numpy(photo).permute(2, 0, 1)[None])
    torch.testing.assert_close(
        torch.tensor(found["logits"]), seen_by(model, x, kept)[0], rtol=1e-4, atol=1e-4
    )
    assert [patch for patch, share in enumerate(found["rollout"]) if share == 0] == [1, 3, 4]


@needs_node
@pytest.mark.parametrize(
    ("framing", "changes"),
    [
        (Framing("cover"), {}),
        (Framing("cover", 0.8, "bilinear"), {}),
        (Framing("squash", 0.9), {"invert": True}),
        (Framing("letterbox", fill=(9, 99, 199)), {}),
        (Framing("cover"), {"source_size": (12, 20)}),
    ],
    ids=str,
)
@torch.no_grad()
def test_pictures_of_any_size_are_fitted_as_for_predict(
    framing: Framing, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = small_vit()
    preprocess = preprocess_of(model, framing=framing, **changes)
    page = page_of(model, preprocess, tmp_path)
    photos = [noise_photo(*size) for size in ((31, 17), (5, 4), (9, 40), (8, 12), (3, 700))]
    found = web_pages.answers(page, photos)["found"]
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
        pixels = preprocess.read(tmp_path / f"{number}.png")
        planes = torch.tensor(found[number]["planes"]).view(pixels.shape)
        assert (planes - pixels.float()).abs().max() <= 1  # grey level
        logits = model(preprocess(pixels[None]))[0]
        got = torch.tensor(found[number]["logits"])
        assert (got - logits).abs().max() < 0.05 * logits.abs().max()


@needs_node
@torch.no_grad()
def test_grey_models_see_colours_as_pillow_does(tmp_path: Path) -> None:
    model = small_vit(in_chans=1)
    preprocess = preprocess_of(model, invert=True)
    page = page_of(model, preprocess, tmp_path)
    photo = noise_photo(8, 12)
    (found,) = web_pages.answers(page, [photo])["found"]
    grey = np.asarray(Image.fromarray(photo).convert("L"))
    assert np.array_equal(np.array(found["planes"][0]).reshape(8, 12), grey)
    logits = model(preprocess(torch.from_numpy(grey.copy())[None, None]))[0]
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"rope": "index", "pos_embed": "none"}, "rope index"),
        ({"attention": "gpsa"}, "attention gpsa"),
        ({"global_pool": "map"}, "global_pool map"),
        ({"in_chans": 4}, "4 channels"),
        ({"num_classes": 0}, "no head"),
        ({"embed_dim": 512, "depth": 5}, "million parameters"),
    ],
    ids=str,
)
def test_what_the_page_cannot_compute_is_refused_by_name(
    changes: dict[str, Any], refused: str, tmp_path: Path
) -> None:
    model = ViT(**{**SMALL, **changes})
    preprocess = preprocess_of(model, mean=(0.5,) * model.in_chans, std=(0.5,) * model.in_chans)
    with pytest.raises(InputError, match=f"format web has no models with .*{refused}"):
        page_of(model, preprocess, tmp_path)
    assert list(tmp_path.iterdir()) == []
