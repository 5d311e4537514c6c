"""How other programs name the weights of a ViT: one table of regular expressions for each.

The tables say what becomes of a name; :mod:`.key_mapping` applies them, in order. A format is
recognised by its name for the patch filters.
"""

from typing import NamedTuple

from vitlit.data.catalog import IMAGENET_MEAN, IMAGENET_STD

Rules = tuple[tuple[str, str], ...]
FILTERS_KEY = "patch_embed.proj.weight"

TIMM_RULES: Rules = (
    (r"^(?:register|storage)_tokens$", "reg_token"),  # DINOv2's and DINOv3's own files
    (r"\.gamma_([12])$", r".ls\1.gamma"),  # DeiT III's own files, and timm's Eva
    (r"\.attn\.([qkv])_proj\.", r".attn.\1."),  # timm's Eva
    (r"\.attn\.([qv])_bias$", r".attn.\1.bias"),
    (r"\.mlp\.(?:fc1_g|w1)\.", ".mlp.gate."),  # gated MLPs of timm, and of DINOv3's own files
    (r"\.mlp\.(?:fc1_x|w2)\.", ".mlp.up."),
    (r"\.mlp\.w12\.", ".mlp.fc1."),  # DINOv2's own files
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
HUGGING_FACE_RULES: Rules = (  # transformers up to 4, and 5, which renamed layers and projections
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^(?:encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.(?:down_proj|weights_out)\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.gate_proj\.", ".mlp.gate."),
    (r"\.mlp\.up_proj\.", ".mlp.up."),  # the first layer, if there is no gate
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^(?:cls_)?classifier\.", "head."),  # cls_: DeiT's, which has a second one for its teacher
    (r"^distillation_classifier\.", "head_dist."),
)
HUGGING_FACE_PAIR_RULES: Rules = (  # the image towers of CLIP and SigLIP
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."),  # sic
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"^classifier\.", "head."),
)
OPEN_CLIP_RULES: Rules = (  # open_clip, OpenAI's CLIP, and the Perception Encoder's own files
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"^attn_pool\.attn\.qkv\.|^attn_pool\.attn\.in_proj_", "attn_pool.qkv."),
    (r"^attn_pool\.attn\.out_proj\.", "attn_pool.proj."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"^attn_pool\.probe$", "attn_pool.latent"),
    (r"^attn_pool\.layernorm\.", "attn_pool.norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.ls_([12])\.gamma$", r".ls\1.gamma"),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^proj$", "projection"),
)
TORCHVISION_RULES: Rules = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.(head|pre_logits)\.", r"\1."),
)
GOOGLE_RULES: Rules = (  # the published files, the newer ones of the same code, and big_vision's
    (r"^cls$", "cls_token"),
    (r"^(?:Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"\.LayerNorm_0/", ".norm1/"),
    (r"\.LayerNorm_[12]/", ".norm2/"),
    (r"\.MultiHeadDotProductAttention_[01]/([qkv])(?:uery|ey|alue)/", r".attn.\1/"),
    (r"\.MultiHeadDotProductAttention_[01]/out/", ".attn.proj/"),
    (r"\.MlpBlock_[03]/Dense_0/", ".mlp.fc1/"),
    (r"\.MlpBlock_[03]/Dense_1/", ".mlp.fc2/"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"/(?:kernel|scale)$", ".weight"),
    (r"/bias$", ".bias"),
)


class WeightFormat(NamedTuple):
    """How one code base names its weights and computes with them.

    tower: the start of the name of the patch filters that its other names share; mean, std: per
    channel, if all of its files share them; class_positions: whether the class token has a
    position in all of its files.
    """

    name: str
    rules: Rules
    tower: str = ""
    norm_eps: float = 1e-6
    act: str = "gelu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_positions: bool = True


HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# By the end of the name of the patch filters. norm_eps and act are those of each code base, which
# no weights show: Hugging Face's default epsilon is 1e-12, and Google's code uses the tanh GELU,
# where the exact one moves the logits by 1.3e-4.
WEIGHT_FORMATS = {
    "embeddings.patch_embeddings.projection.weight": WeightFormat(
        "Hugging Face", HUGGING_FACE_RULES, norm_eps=1e-12
    ),
    FILTERS_KEY: WeightFormat("timm", TIMM_RULES),
    "embeddings.patch_embeddings.weight": WeightFormat(  # DINOv3
        "Hugging Face", HUGGING_FACE_RULES, norm_eps=1e-5
    ),
    "embeddings.patch_embedding.weight": WeightFormat(
        "Hugging Face", HUGGING_FACE_PAIR_RULES, norm_eps=1e-5
    ),
    "visual.conv1.weight": WeightFormat(
        "open_clip", OPEN_CLIP_RULES, "visual.", norm_eps=1e-5, mean=CLIP_MEAN, std=CLIP_STD
    ),
    "conv_proj.weight": WeightFormat(
        "torchvision", TORCHVISION_RULES, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "embedding/kernel": WeightFormat(
        "Google", GOOGLE_RULES, act="gelu_tanh", mean=HALF, std=HALF, class_positions=False
    ),
}
DROPPED_PARTS = {  # parts of pre-training that no classifier uses
    r"^mask_token$": "the mask token",
    r"^decoder[._]": "the decoder",
    r"^pooler\.": "the pooler",
    r"^(head\.(mlp\.|last_layer)|(dino|ibot)_head\.)": "the projection head of self-supervision",
    r"^(visual_)?projection(\.weight)?$": "the projection to the space shared with texts",
    r"^local_cls_norm\.": "the second norm of the class token, which local crops use",
    # tables that follow from the arguments of the model
    r"(^|\.)rope(_embed(dings)?)?\.|^embeddings\.position_ids$|\.relative_position_index$": "",
}
# The parts of a model of images and texts that are not the image tower.
TEXT_PARTS = (
    r"^(text(_model|_projection|\.)|logit_(scale|bias)$|token_embedding\.|transformer\."
    r"|positional_embedding$|ln_final\.|attn_mask$|text$|input_resolution$|context_length$"
    r"|vocab_size$)"
)
