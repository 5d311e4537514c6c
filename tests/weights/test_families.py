"""Families of published weights, built small, saved as their users save them: equal outputs.

CLIP, SigLIP, DINOv2 and v3, EVA-02, BEiT-3, AIMv2, InternViT and the Perception Encoder, from timm,
Hugging Face's transformers, open_clip and the authors' own files.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers
from timm.models import save_for_hf
from torch import Tensor, nn

from vitlit.deploy.export import export_model
from vitlit.errors import InputError
from vitlit.explain.attribution import attention_maps, pooled_shares
from vitlit.weights.load import load

SIZES: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32}
TIMM: dict[str, dict[str, Any]] = {
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_clip_quickgelu_224": {},
    "vit_base_patch16_siglip_256": {},
    "vit_so400m_patch16_siglip_256": {"num_heads": 4},
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_dinov3_qkvb": {},
    "vit_small_plus_patch16_dinov3": {},
    "vit_giant_patch14_dinov2": {"img_size": 28, "mlp_ratio": 4.0},
    "eva02_tiny_patch14_224": {"img_size": 28},
    "eva02_base_patch14_224": {"img_size": 28},
    "eva02_base_patch16_clip_224": {},
    "eva_giant_patch14_224": {"img_size": 28},
    "vit_pe_core_base_patch16_224": {"num_heads": 4},
    "vit_pe_spatial_base_patch16_512": {},
    "vit_base_patch16_rope_224": {},
    "vit_base_patch16_rope_ape_224": {},
    "vit_base_patch16_rope_reg1_gap_256": {},
    "beit3_base_patch16_224": {},
    "beit_base_patch16_224": {},
    "beitv2_large_patch16_224": {},
    "aimv2_large_patch14_224": {"img_size": 28},
    "vit_intern300m_patch14_448": {"img_size": 28},
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def filled(model: Any, std: float = 0.2) -> Any:
    """The model in evaluation mode, with no parameter left at zero."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model.eval()


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def timm_folder(folder: Path, name: str, **changes: Any) -> Any:
    """An architecture of timm, small, in the folder that it pushes to the hub."""
    arguments = SIZES | TIMM.get(name, {}) | changes
    model = filled(timm.create_model(name, **arguments))
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model


@pytest.mark.parametrize("name", TIMM)
def test_a_folder_of_timm_gives_timms_outputs(name: str, tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path, name)
    ours = load(tmp_path).model
    images = torch.randn(2, 3, *ours.img_size)
    with torch.no_grad():
        assert distance(ours(images), theirs(images)) <= 1e-4


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch16_dinov3", "eva02_base_patch16_clip_224", "vit_pe_core_base_patch16_224"],
)
@pytest.mark.parametrize("size", [(64, 32), (48, 48)], ids=str)
def test_rotary_models_give_timms_outputs_at_another_size(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    theirs = timm_folder(tmp_path, name)
    theirs.set_input_size(img_size=size)
    ours = load(tmp_path, img_size=list(size)).model
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert distance(ours(images), theirs(images)) <= 1e-4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_rpn_224", "normalises after each layer"),
        ("vit_small_patch16_rope_mixed_224", "learns the frequencies"),
        ("vit_relpos_small_patch16_224", "computes a bias of the attention"),
    ],
)
def test_what_no_argument_expresses_is_refused_with_its_reason(
    name: str, reason: str, tmp_path: Path
) -> None:
    timm_folder(tmp_path, name)
    with pytest.raises(InputError, match=f"{name} .*{reason}"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["mixed_224", "mixed_ape_224"])
def test_learnt_frequencies_are_refused_without_the_name_of_their_architecture(
    name: str, tmp_path: Path
) -> None:
    theirs = timm_folder(tmp_path, f"vit_small_patch16_rope_{name}")
    bare = tmp_path / "bare.pth"
    torch.save({f"module.{name}": value for name, value in theirs.state_dict().items()}, bare)
    with pytest.raises(InputError, match=r"bare\.pth learns the frequencies"):
        load(bare)


def test_a_bare_file_of_beit_tells_its_size(tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path, "beit_base_patch16_224", img_size=48)
    torch.save(theirs.state_dict(), tmp_path / "beit.pth")
    ours = load(tmp_path / "beit.pth", num_heads=2).model
    assert ours.img_size == (48, 48)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert distance(ours(images), theirs(images)) <= 1e-4


def test_relative_positions_are_resized_to_another_grid(tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path, "beit_base_patch16_224", img_size=64)
    tables = [block.attn.relative_position_bias_table for block in theirs.blocks]
    # a plane stays a plane: the bias grows with the offset in units of the image
    rows, cols = torch.meshgrid(torch.linspace(-1, 1, 7), torch.linspace(-1, 1, 7), indexing="ij")
    tables[0].data[:-3] = (rows + 2 * cols).reshape(-1, 1).expand(-1, 2)
    save_for_hf(theirs, tmp_path, model_args=SIZES | {"img_size": 64}, safe_serialization=True)
    ours = load(tmp_path, img_size=[32, 96]).model
    table = ours.state_dict()["blocks.0.attn.relative_position_bias_table"]
    assert torch.equal(table[-3:], tables[0][-3:])
    centre = table[:-3].view(3, 11, 2)
    torch.testing.assert_close(centre[1, 5], torch.zeros(2), rtol=0, atol=1e-5)
    assert (centre.diff(dim=0) > 0).all()
    assert (centre.diff(dim=1) > 0).all()
    ours(torch.randn(1, 3, 32, 96))


@pytest.mark.parametrize(
    "name",
    [
        "eva02_base_patch14_224",
        "vit_small_patch16_dinov3",
        "vit_pe_core_base_patch16_224",
        "vit_pe_spatial_base_patch16_512",
    ],
)
def test_bare_weights_whose_rotary_positions_nothing_tells_are_refused(
    name: str, tmp_path: Path
) -> None:
    theirs = timm_folder(tmp_path / "folder", name)
    torch.save(theirs.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(InputError, match="rotary"):
        load(tmp_path / "bare.pth")


def test_a_folder_with_the_names_of_a_perception_encoder_need_not_have_rotary_positions(
    tmp_path: Path,
) -> None:
    theirs = timm_folder(tmp_path, "vit_base_patch16_clip_224", final_norm=False)
    ours = load(tmp_path).model
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert distance(ours(images), theirs(images)) <= 1e-4


TOWER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
}
TEXTS: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 10,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def clip_config(**changes: Any) -> Any:
    return transformers.CLIPConfig(vision_config=TOWER, text_config=TEXTS, **changes)


def siglip_config(**changes: Any) -> Any:
    return transformers.SiglipConfig(vision_config=TOWER, text_config=TEXTS, **changes)


def hugging_face(kind: str) -> Any:
    """A small model of transformers."""
    hf = transformers
    match kind:
        case "CLIP's tower":
            return hf.CLIPVisionModel(hf.CLIPVisionConfig(**TOWER))
        case "CLIP's tower with its projection":
            return hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**TOWER))
        case "CLIP, OpenCLIP's activation":
            return hf.CLIPVisionModel(hf.CLIPVisionConfig(**TOWER, hidden_act="gelu"))
        case "CLIP with its texts":
            return hf.CLIPModel(clip_config(projection_dim=16))
        case "CLIP's classifier":
            return hf.CLIPForImageClassification(clip_config(num_labels=5))
        case "SigLIP's tower":
            return hf.SiglipVisionModel(hf.SiglipVisionConfig(**TOWER))
        case "SigLIP with its texts":
            return hf.SiglipModel(siglip_config())
        case "SigLIP's classifier":
            return hf.SiglipForImageClassification(siglip_config(num_labels=5))
        case "DINOv3":
            return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**TOWER, num_register_tokens=4))
        case "DINOv3, gated":
            config = hf.DINOv3ViTConfig(**TOWER, use_gated_mlp=True, hidden_act="silu")
            return hf.DINOv3ViTModel(config)
    return hf.Dinov2Model(hf.Dinov2Config(**TOWER, use_swiglu_ffn=True))


def features_of(model: Any, images: Tensor) -> Tensor:
    """Logits, or what the model calls its pooled output."""
    if hasattr(model, "text_model"):
        model = model.vision_model
    answer = model(images)
    return answer.logits if hasattr(answer, "logits") else answer.pooler_output


HUGGING_FACE = [
    "CLIP's tower",
    "CLIP's tower with its projection",
    "CLIP, OpenCLIP's activation",
    "CLIP with its texts",
    "CLIP's classifier",
    "SigLIP's tower",
    "SigLIP with its texts",
    "SigLIP's classifier",
    "DINOv3",
    "DINOv3, gated",
    "DINOv2, gated",
]


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_a_folder_of_transformers_gives_its_outputs(kind: str, tmp_path: Path) -> None:
    theirs = filled(hugging_face(kind))
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path).model
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        if "projection" in kind:
            expected = theirs.vision_model(images).pooler_output
        else:
            expected = features_of(theirs, images)
        assert distance(ours(images), expected) <= 1e-4


@pytest.mark.parametrize("size", [(64, 32), (48, 48)], ids=str)
def test_dinov3_gives_the_features_of_transformers_at_another_size(
    size: tuple[int, int], tmp_path: Path
) -> None:
    theirs = filled(hugging_face("DINOv3"))
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path, img_size=list(size)).model
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert distance(ours(images), features_of(theirs, images)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_each_family_goes_back_to_timm(name: str, tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path / "theirs", name)
    ours = load(tmp_path / "theirs")
    folder = export_model(*ours, tmp_path / "back").folder
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, *ours.model.img_size)
    with torch.no_grad():
        assert distance(again(images), theirs(images)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_each_family_goes_back_to_transformers(kind: str, tmp_path: Path) -> None:
    theirs = filled(hugging_face(kind))
    theirs.save_pretrained(tmp_path / "theirs")
    done = export_model(*load(tmp_path / "theirs"), tmp_path / "back", naming="huggingface")
    config = json.loads((done.folder / "config.json").read_text())
    again = getattr(transformers, config["architectures"][0]).from_pretrained(done.folder).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tower = theirs.vision_model if "projection" in kind else theirs
        assert distance(features_of(again, images), features_of(tower, images)) <= 1e-4


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("scale", [None, 0.1], ids=["plain", "layer scale"])
def test_a_file_of_open_clip_gives_its_features(
    scale: float | None, prefix: str, tmp_path: Path
) -> None:
    tower = {"layers": 2, "width": 128, "patch_size": 16, "image_size": 32, "ls_init_value": scale}
    texts = {"context_length": 4, "vocab_size": 10, "width": 16, "heads": 1, "layers": 1}
    theirs = filled(open_clip.CLIP(embed_dim=8, vision_cfg=tower, text_cfg=texts))
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "open_clip.pt")
    theirs.visual.proj = None  # features before the projection
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = load(tmp_path / "open_clip.pt").model(images)
        assert distance(found, theirs.visual(images)) <= 1e-4


def test_a_file_of_open_clip_with_a_tower_of_timm_gives_its_features(tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path / "folder", "vit_base_patch16_siglip_256")
    texts = open_clip.CLIP(
        embed_dim=64,
        vision_cfg={"layers": 1, "width": 64, "head_width": 64, "patch_size": 16, "image_size": 16},
        text_cfg={"context_length": 4, "vocab_size": 10, "width": 16, "heads": 1, "layers": 1},
    ).state_dict()
    state = {f"text.{n}": value for n, value in texts.items() if not n.startswith("visual.")}
    state |= {"logit_scale": torch.ones(()), "logit_bias": torch.ones(())}
    state |= {f"visual.trunk.{name}": value for name, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "open_clip.pt")
    ours = load(tmp_path / "open_clip.pt", num_heads=2).model
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert distance(ours(images), theirs(images)) <= 1e-4


def dinov3s_own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights of a DINOv3 under the names of its authors' files."""
    named = {}
    for name, value in state.items():
        name = name.replace("reg_token", "storage_tokens").replace("gamma_", "ls")
        named[f"{name}.gamma" if name.endswith(("ls1", "ls2")) else name] = value
    for number in range(2):
        owner = f"blocks.{number}.attn"
        q, v = (named.pop(f"{owner}.{letter}_bias") for letter in "qv")
        # the authors keep a bias of the keys, and a mask that removes it
        named[f"{owner}.qkv.bias"] = torch.cat([q, torch.ones_like(q), v])
        mask = torch.cat([torch.ones_like(q), torch.zeros_like(q), torch.ones_like(q)])
        named[f"{owner}.qkv.bias_mask"] = mask
    periods = 100 ** (torch.arange(8) / 8)  # of heads 32 wide
    return named | {"rope_embed.periods": periods, "mask_token": torch.zeros(1, 64)}


def test_dinov3s_own_file_gives_the_features_that_timm_makes_of_it(tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path, "vit_small_patch16_dinov3_qkvb", global_pool="token")
    torch.save(dinov3s_own(theirs.state_dict()), tmp_path / "dinov3.pth")
    ours = load(tmp_path / "dinov3.pth", img_size=32, num_heads=2).model
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert distance(ours(images), theirs(images)) <= 1e-4


PE_NAMES = (  # timm's names, and those of the authors' files
    ("attn_pool.latent", "attn_pool.probe"),
    ("attn_pool.proj.", "attn_pool.attn.out_proj."),
    ("attn_pool.norm.", "attn_pool.layernorm."),
    ("attn.qkv.", "attn.in_proj_"),
    ("attn.proj.", "attn.out_proj."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("norm_pre.", "ln_pre."),
    (".norm1.", ".ln_1."),
    (".norm2.", ".ln_2."),
    ("blocks.", "transformer.resblocks."),
    ("patch_embed.proj.", "conv1."),
)


def pes_own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights of a Perception Encoder under the names of its authors' files."""
    state = dict(state)
    for end in ("weight", "bias") if "attn_pool.q.weight" in state else ():
        q, kv = state.pop(f"attn_pool.q.{end}"), state.pop(f"attn_pool.kv.{end}")
        state[f"attn_pool.attn.in_proj_{end}"] = torch.cat([q, kv])
    named = {"visual.proj": torch.zeros(64, 8)}
    for name, value in state.items():
        name = f"ln_post.{name[5:]}" if name.startswith("norm.") else name
        for theirs, own in PE_NAMES:
            name = name.replace(theirs, own)
        named[f"visual.{name}"] = value
    named["visual.class_embedding"] = named.pop("visual.cls_token").flatten()
    named["visual.positional_embedding"] = named.pop("visual.pos_embed")[0]
    return named


@pytest.mark.parametrize(
    "name", ["vit_pe_core_base_patch16_224", "vit_pe_spatial_base_patch16_512"]
)
def test_a_perception_encoders_own_file_gives_the_features_that_timm_makes_of_it(
    name: str, tmp_path: Path
) -> None:
    # timm rescales rotary positions to the grid of its published size, the authors do not: the same
    sizes = {"ref_feat_shape": (2, 2), "num_classes": 0, "attn_pool_num_heads": 8}
    theirs = timm_folder(tmp_path, name, num_heads=8, **sizes)
    own = pes_own(theirs.state_dict())
    theirs.load_state_dict(timm.models.eva._convert_pe(own, theirs), strict=False)
    torch.save(own, tmp_path / "pe.pt")
    ours = load(tmp_path / "pe.pt", num_heads=8).model
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = ours(images)
        expected = theirs(images)
    assert distance(found, expected) <= 1e-4


MAPPED = [
    "vit_small_patch16_dinov3",
    "vit_pe_core_base_patch16_224",
    "eva02_base_patch14_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_256",
    "beit_base_patch16_224",
]


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_256", "vit_pe_core_base_patch16_224"])
def test_what_the_pooling_attends_to_is_what_torchs_attention_says(
    name: str, tmp_path: Path
) -> None:
    theirs = timm_folder(tmp_path, name)
    pool = theirs.attn_pool
    layer = nn.MultiheadAttention(64, pool.num_heads, batch_first=True)
    ours = load(tmp_path).model
    images = torch.randn(2, 3, *ours.img_size)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.kv.weight]))
        layer.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.kv.bias]))
        tokens = theirs.forward_features(images)
        _, weights = layer(pool.latent.expand(2, -1, -1), tokens, tokens)
        torch.testing.assert_close(pooled_shares(ours, images), weights[:, 0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", MAPPED)
def test_attention_maps_of_each_family_are_timms(name: str, tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path, name)
    for block in theirs.blocks:  # which forms its matrices only without the fused kernel
        block.attn.fused_attn = False
    seen: list[Tensor] = []
    theirs.blocks[-1].attn.attn_drop.register_forward_hook(lambda *args: seen.append(args[2]))
    ours = load(tmp_path).model
    images = torch.randn(2, 3, *ours.img_size)
    with torch.no_grad():
        theirs(images)
    maps = attention_maps(ours, images).maps
    torch.testing.assert_close(maps[-1], seen[0], rtol=1e-3, atol=1e-5)


def test_the_heads_of_transformers_settings_are_those_of_the_image_tower(tmp_path: Path) -> None:
    hugging_face("CLIP with its texts").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["num_attention_heads"] == 1
    assert load(tmp_path).model.config["num_heads"] == 4


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avgmax"}, "global_pool 'avgmax'"),
        ("vit_tiny_patch16_224", {"global_pool": "max"}, "global_pool 'max'"),
        ("vit_tiny_patch16_224", {"norm_layer": "simplenorm"}, "norm_layer 'simplenorm'"),
        (
            "vit_tiny_patch16_224",
            {"global_pool": "avg", "pool_include_prefix": True},
            "pool_include_prefix true",
        ),
        ("eva02_base_patch14_224", {"use_post_norm": True}, "use_post_norm True"),
        (
            "eva02_base_patch14_224",
            {"rope_type": "mixed", "img_size": 28},
            "rope_type 'mixed'",
        ),
        (
            "eva02_base_patch14_224",
            {"rope_type": "mrope", "rope_mrope_section": [2, 2, 4], "img_size": 28},
            "rope_type 'mrope'",
        ),
    ],
    ids=str,
)
def test_settings_of_timm_that_this_model_does_not_compute_are_refused(
    name: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    timm_folder(tmp_path, name, **changes)
    with pytest.raises(InputError, match=words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("eva02_base_patch14_224", {"rope_grid_indexing": "xy"}),
        ("vit_pe_core_base_patch16_224", {"global_pool": "avg"}),
        ("vit_pe_core_base_patch16_224", {"global_pool": "token"}),
        ("vit_tiny_patch16_224", {"final_norm": False}),
        ("vit_tiny_patch16_224", {"norm_layer": "rmsnorm"}),
    ],
    ids=str,
)
def test_settings_of_timm_that_change_an_architecture_give_timms_outputs(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    theirs = timm_folder(tmp_path, name, **changes)
    ours = load(tmp_path).model
    images = torch.randn(2, 3, *ours.img_size)
    with torch.no_grad():
        assert distance(ours(images), theirs(images)) <= 1e-4


def test_the_norms_of_dinov3_have_the_epsilon_of_its_settings(tmp_path: Path) -> None:
    config = transformers.DINOv3ViTConfig(**TOWER, layer_norm_eps=1e-3)
    filled(transformers.DINOv3ViTModel(config)).save_pretrained(tmp_path)
    assert load(tmp_path).model.config["norm_eps"] == 1e-3
