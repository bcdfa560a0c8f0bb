"""Table of official tensor names and their `transformers` names.

A rule is `official name -> transformers name(s)` with an operation. In templates `{n}` is an index and `{p}` is
`weight` or `bias`. Rules also work backwards, for export.
"""

from dataclasses import dataclass
from enum import StrEnum


class Op(StrEnum):
    """Operation that turns an official tensor into a `transformers` tensor."""

    COPY = "copy"
    SPLIT = "split"
    """One packed tensor into equal parts along dim 0 (query, key, value)."""
    JOIN = "join"
    """Several tensors into one along dim 0; `{n}` on the official side counts them."""
    TRANSPOSE = "transpose"
    DROP_CLS = "drop_cls"
    """Position 0 of dim 1 belongs to a class token that SAM3 never reads."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table; `targets` are the `transformers` names, several for a split or a shared tensor."""

    official: str
    targets: tuple[str, ...]
    op: Op = Op.COPY


def copied(official: str, target: str) -> Rule:
    """Rule for a tensor that only changes its name."""
    return Rule(official, (target,))


def _packed(official: str, target: str) -> tuple[Rule, ...]:
    """A `torch.nn.MultiheadAttention`: packed `in_proj`, plain `out_proj`."""
    parts = tuple(f"{target}.{part}_proj.{{p}}" for part in "qkv")
    return (
        Rule(f"{official}.in_proj_{{p}}", parts, Op.SPLIT),
        copied(f"{official}.out_proj.{{p}}", f"{target}.o_proj.{{p}}"),
    )


def _fusion_layer(official: str, target: str) -> tuple[Rule, ...]:
    """A layer that attends to itself, then to the image (geometry encoder) or to the prompt (DETR encoder)."""
    return (
        *_packed(f"{official}.self_attn", f"{target}.self_attn"),
        *_packed(f"{official}.cross_attn_image", f"{target}.cross_attn"),
        copied(f"{official}.linear1.{{p}}", f"{target}.mlp.fc1.{{p}}"),
        copied(f"{official}.linear2.{{p}}", f"{target}.mlp.fc2.{{p}}"),
        *(copied(f"{official}.norm{i}.{{p}}", f"{target}.layer_norm{i}.{{p}}") for i in (1, 2, 3)),
    )


def _mlp_layers(official: str, target: str, count: int) -> tuple[Rule, ...]:
    """An official MLP counts its layers from 0, `transformers` from 1."""
    return tuple(copied(f"{official}.layers.{i}.{{p}}", f"{target}.layer{i + 1}.{{p}}") for i in range(count))


def _fpn(official: str, target: str) -> tuple[Rule, ...]:
    """A feature pyramid: level 0 upsamples twice, level 1 once."""
    return (
        copied(f"{official}.0.dconv_2x2_0.{{p}}", f"{target}.0.scale_layers.0.{{p}}"),
        copied(f"{official}.0.dconv_2x2_1.{{p}}", f"{target}.0.scale_layers.2.{{p}}"),
        copied(f"{official}.1.dconv_2x2.{{p}}", f"{target}.1.scale_layers.0.{{p}}"),
        copied(f"{official}.{{n}}.conv_1x1.{{p}}", f"{target}.{{n}}.proj1.{{p}}"),
        copied(f"{official}.{{n}}.conv_3x3.{{p}}", f"{target}.{{n}}.proj2.{{p}}"),
    )


_TRUNK, _VIT = "backbone.vision_backbone.trunk", "vision_encoder.backbone"
_TEXT, _CLIP = "backbone.language_backbone.encoder", "text_encoder.text_model"
_BLOCK, _LAYER = f"{_TEXT}.transformer.resblocks.{{n}}", f"{_CLIP}.encoder.layers.{{n}}"

VISION_RULES = (
    Rule(f"{_TRUNK}.pos_embed", (f"{_VIT}.embeddings.position_embeddings",), Op.DROP_CLS),
    copied(f"{_TRUNK}.patch_embed.proj.{{p}}", f"{_VIT}.embeddings.patch_embeddings.projection.{{p}}"),
    copied(f"{_TRUNK}.ln_pre.{{p}}", f"{_VIT}.layer_norm.{{p}}"),
    *(copied(f"{_TRUNK}.blocks.{{n}}.norm{i}.{{p}}", f"{_VIT}.layers.{{n}}.layer_norm{i}.{{p}}") for i in (1, 2)),
    Rule(
        f"{_TRUNK}.blocks.{{n}}.attn.qkv.{{p}}",
        tuple(f"{_VIT}.layers.{{n}}.attention.{part}_proj.{{p}}" for part in "qkv"),
        Op.SPLIT,
    ),
    copied(f"{_TRUNK}.blocks.{{n}}.attn.proj.{{p}}", f"{_VIT}.layers.{{n}}.attention.o_proj.{{p}}"),
    *(copied(f"{_TRUNK}.blocks.{{n}}.mlp.fc{i}.{{p}}", f"{_VIT}.layers.{{n}}.mlp.fc{i}.{{p}}") for i in (1, 2)),
    *_fpn("backbone.vision_backbone.convs", "vision_encoder.neck.fpn_layers"),
)

TEXT_RULES = (
    copied(f"{_TEXT}.token_embedding.weight", f"{_CLIP}.embeddings.token_embedding.weight"),
    copied(f"{_TEXT}.positional_embedding", f"{_CLIP}.embeddings.position_embedding.weight"),
    Rule(f"{_TEXT}.text_projection", ("text_encoder.text_projection.weight",), Op.TRANSPOSE),
    Rule(f"{_BLOCK}.attn.in_proj_{{p}}", tuple(f"{_LAYER}.self_attn.{part}_proj.{{p}}" for part in "qkv"), Op.SPLIT),
    copied(f"{_BLOCK}.attn.out_proj.{{p}}", f"{_LAYER}.self_attn.out_proj.{{p}}"),
    *(copied(f"{_BLOCK}.ln_{i}.{{p}}", f"{_LAYER}.layer_norm{i}.{{p}}") for i in (1, 2)),
    copied(f"{_BLOCK}.mlp.c_fc.{{p}}", f"{_LAYER}.mlp.fc1.{{p}}"),
    copied(f"{_BLOCK}.mlp.c_proj.{{p}}", f"{_LAYER}.mlp.fc2.{{p}}"),
    copied(f"{_TEXT}.ln_final.{{p}}", f"{_CLIP}.final_layer_norm.{{p}}"),
    copied("backbone.language_backbone.resizer.{p}", "text_projection.{p}"),
)

GEOMETRY_RULES = (
    copied("geometry_encoder.label_embed.weight", "geometry_encoder.label_embed.weight"),
    copied("geometry_encoder.cls_embed.weight", "geometry_encoder.cls_embed.weight"),
    *(
        copied(f"geometry_encoder.{name}.{{p}}", f"geometry_encoder.{name}.{{p}}")
        for name in ("boxes_direct_project", "boxes_pool_project", "boxes_pos_enc_project", "final_proj")
    ),
    copied("geometry_encoder.norm.{p}", "geometry_encoder.prompt_layer_norm.{p}"),
    copied("geometry_encoder.img_pre_norm.{p}", "geometry_encoder.vision_layer_norm.{p}"),
    copied("geometry_encoder.encode_norm.{p}", "geometry_encoder.output_layer_norm.{p}"),
    *_fusion_layer("geometry_encoder.encode.{n}", "geometry_encoder.layers.{n}"),
)

_DECODER, _DETR = "transformer.decoder", "detr_decoder"

DETR_RULES = (
    *_fusion_layer("transformer.encoder.layers.{n}", "detr_encoder.layers.{n}"),
    *_packed(f"{_DECODER}.layers.{{n}}.self_attn", f"{_DETR}.layers.{{n}}.self_attn"),
    *_packed(f"{_DECODER}.layers.{{n}}.ca_text", f"{_DETR}.layers.{{n}}.text_cross_attn"),
    *_packed(f"{_DECODER}.layers.{{n}}.cross_attn", f"{_DETR}.layers.{{n}}.vision_cross_attn"),
    # norm1 belongs to the attention to the image although it runs third: the official names follow history, not order.
    copied(f"{_DECODER}.layers.{{n}}.norm1.{{p}}", f"{_DETR}.layers.{{n}}.vision_cross_attn_layer_norm.{{p}}"),
    copied(f"{_DECODER}.layers.{{n}}.norm2.{{p}}", f"{_DETR}.layers.{{n}}.self_attn_layer_norm.{{p}}"),
    copied(f"{_DECODER}.layers.{{n}}.catext_norm.{{p}}", f"{_DETR}.layers.{{n}}.text_cross_attn_layer_norm.{{p}}"),
    copied(f"{_DECODER}.layers.{{n}}.norm3.{{p}}", f"{_DETR}.layers.{{n}}.mlp_layer_norm.{{p}}"),
    copied(f"{_DECODER}.layers.{{n}}.linear1.{{p}}", f"{_DETR}.layers.{{n}}.mlp.fc1.{{p}}"),
    copied(f"{_DECODER}.layers.{{n}}.linear2.{{p}}", f"{_DETR}.layers.{{n}}.mlp.fc2.{{p}}"),
    *_mlp_layers(f"{_DECODER}.bbox_embed", f"{_DETR}.box_head", 3),
    *_mlp_layers(f"{_DECODER}.presence_token_head", f"{_DETR}.presence_head", 3),
    *_mlp_layers(f"{_DECODER}.ref_point_head", f"{_DETR}.ref_point_head", 2),
    *_mlp_layers(f"{_DECODER}.boxRPB_embed_x", f"{_DETR}.box_rpb_embed_x", 2),
    *_mlp_layers(f"{_DECODER}.boxRPB_embed_y", f"{_DETR}.box_rpb_embed_y", 2),
    copied(f"{_DECODER}.norm.{{p}}", f"{_DETR}.output_layer_norm.{{p}}"),
    copied(f"{_DECODER}.presence_token_out_norm.{{p}}", f"{_DETR}.presence_layer_norm.{{p}}"),
    *(
        copied(f"{_DECODER}.{name}.weight", f"{_DETR}.{name}.weight")
        for name in ("query_embed", "reference_points", "presence_token")
    ),
)

_SEGMENT = "segmentation_head"

MASK_RULES = (
    copied(f"{_SEGMENT}.pixel_decoder.conv_layers.{{n}}.{{p}}", "mask_decoder.pixel_decoder.conv_layers.{n}.{p}"),
    copied(f"{_SEGMENT}.pixel_decoder.norms.{{n}}.{{p}}", "mask_decoder.pixel_decoder.norms.{n}.{p}"),
    copied(f"{_SEGMENT}.mask_predictor.mask_embed.layers.{{n}}.{{p}}", "mask_decoder.mask_embedder.layers.{n}.{p}"),
    *_packed(f"{_SEGMENT}.cross_attend_prompt", "mask_decoder.prompt_cross_attn"),
    copied(f"{_SEGMENT}.cross_attn_norm.{{p}}", "mask_decoder.prompt_cross_attn_norm.{p}"),
    copied(f"{_SEGMENT}.semantic_seg_head.{{p}}", "mask_decoder.semantic_projection.{p}"),
    copied(f"{_SEGMENT}.instance_seg_head.{{p}}", "mask_decoder.instance_projection.{p}"),
    *_mlp_layers("dot_prod_scoring.prompt_mlp", "dot_product_scoring.text_mlp", 2),
    copied("dot_prod_scoring.prompt_mlp.out_norm.{p}", "dot_product_scoring.text_mlp_out_norm.{p}"),
    copied("dot_prod_scoring.prompt_proj.{p}", "dot_product_scoring.text_proj.{p}"),
    copied("dot_prod_scoring.hs_proj.{p}", "dot_product_scoring.query_proj.{p}"),
)

DETECTOR_RULES = (*VISION_RULES, *TEXT_RULES, *GEOMETRY_RULES, *DETR_RULES, *MASK_RULES)
"""Official image model (no prefix) -> `Sam3Model`."""

TRACKER_NECK_RULES = _fpn("backbone.vision_backbone.sam2_convs", "fpn_layers")
"""Official interactive neck (no prefix) -> `Sam3VisionNeck`."""

DROPPED_ON_PURPOSE = {
    "backbone.vision_backbone.trunk.blocks.{n}.attn.freqs_cis": "rotary table, computed from the configuration",
    "geometry_encoder.points_{s}": "point exemplars, which the concept head ignores",
}
"""Official tensors without influence on results, and the reason; `{s}` is any rest of a name."""
