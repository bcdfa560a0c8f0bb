"""The key table of the tracker (interactive head, memory, propagation): official -> `Sam3TrackerVideoModel`."""

from medsam3_core.sam3.keys.key_table import Op, Rule

_PROMPT, _MASK = "sam_prompt_encoder", "sam_mask_decoder"
_FUSE, _MEMORY = "transformer.encoder.layers.{n}", "memory_attention.layers.{n}"
_TWO_WAY = f"{_MASK}.transformer.layers.{{n}}"
_TWO_WAY_HF = "mask_decoder.transformer.layers.{n}"
_BACKBONE = "maskmem_backbone"


def _copy(official: str, target: str) -> Rule:
    return Rule(official, (target,))


def _attention(official: str, target: str) -> tuple[Rule, ...]:
    """The tracker's attention keeps query, key and value apart; only the output has another name."""
    return (
        *(_copy(f"{official}.{part}_proj.{{p}}", f"{target}.{part}_proj.{{p}}") for part in "qkv"),
        _copy(f"{official}.out_proj.{{p}}", f"{target}.o_proj.{{p}}"),
    )


def _three_layers(official: str, target: str) -> tuple[Rule, ...]:
    """An MLP of three layers: `transformers` names the outer two."""
    names = ("proj_in", "layers.0", "proj_out")
    return tuple(_copy(f"{official}.layers.{i}.{{p}}", f"{target}.{name}.{{p}}") for i, name in enumerate(names))


MEMORY_RULES = (
    _copy("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    _copy("no_mem_embed", "no_memory_embedding"),
    _copy("no_mem_pos_enc", "no_memory_positional_encoding"),
    _copy("no_obj_ptr", "no_object_pointer"),
    _copy("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    _copy("mask_downsample.{p}", "mask_downsample.{p}"),
    _copy("obj_ptr_tpos_proj.{p}", "temporal_positional_encoding_projection_layer.{p}"),
    *_three_layers("obj_ptr_proj", "object_pointer_proj"),
    *_attention(f"{_FUSE}.self_attn", f"{_MEMORY}.self_attn"),
    *_attention(f"{_FUSE}.cross_attn_image", f"{_MEMORY}.cross_attn_image"),
    *(_copy(f"{_FUSE}.linear{i}.{{p}}", f"{_MEMORY}.linear{i}.{{p}}") for i in (1, 2)),
    *(_copy(f"{_FUSE}.norm{i}.{{p}}", f"{_MEMORY}.layer_norm{i}.{{p}}") for i in (1, 2, 3)),
    _copy("transformer.encoder.norm.{p}", "memory_attention.layer_norm.{p}"),
    *(
        rule
        for i in range(4)
        for rule in (
            _copy(
                f"{_BACKBONE}.mask_downsampler.encoder.{3 * i}.{{p}}",
                f"memory_encoder.mask_downsampler.layers.{i}.conv.{{p}}",
            ),
            _copy(
                f"{_BACKBONE}.mask_downsampler.encoder.{3 * i + 1}.{{p}}",
                f"memory_encoder.mask_downsampler.layers.{i}.layer_norm.{{p}}",
            ),
        )
    ),
    _copy(f"{_BACKBONE}.mask_downsampler.encoder.12.{{p}}", "memory_encoder.mask_downsampler.final_conv.{p}"),
    _copy(f"{_BACKBONE}.pix_feat_proj.{{p}}", "memory_encoder.feature_projection.{p}"),
    _copy(f"{_BACKBONE}.out_proj.{{p}}", "memory_encoder.projection.{p}"),
    _copy(f"{_BACKBONE}.fuser.layers.{{n}}.gamma", "memory_encoder.memory_fuser.layers.{n}.scale"),
    _copy(f"{_BACKBONE}.fuser.layers.{{n}}.dwconv.{{p}}", "memory_encoder.memory_fuser.layers.{n}.depthwise_conv.{p}"),
    _copy(f"{_BACKBONE}.fuser.layers.{{n}}.norm.{{p}}", "memory_encoder.memory_fuser.layers.{n}.layer_norm.{p}"),
    *(
        _copy(
            f"{_BACKBONE}.fuser.layers.{{n}}.pwconv{i}.{{p}}",
            f"memory_encoder.memory_fuser.layers.{{n}}.pointwise_conv{i}.{{p}}",
        )
        for i in (1, 2)
    ),
)

_DOWNSCALING = {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}
_UPSCALING = {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}

INTERACTIVE_RULES = (
    Rule(
        f"{_PROMPT}.pe_layer.positional_encoding_gaussian_matrix",
        ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"),
    ),
    Rule(f"{_PROMPT}.point_embeddings.{{n}}.weight", ("prompt_encoder.point_embed.weight",), Op.JOIN),
    _copy(f"{_PROMPT}.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
    _copy(f"{_PROMPT}.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
    *(
        _copy(f"{_PROMPT}.mask_downscaling.{i}.{{p}}", f"prompt_encoder.mask_embed.{name}.{{p}}")
        for i, name in _DOWNSCALING.items()
    ),
    *(
        rule
        for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
        for rule in _attention(f"{_TWO_WAY}.{name}", f"{_TWO_WAY_HF}.{name}")
    ),
    *(_copy(f"{_TWO_WAY}.norm{i}.{{p}}", f"{_TWO_WAY_HF}.layer_norm{i}.{{p}}") for i in (1, 2, 3, 4)),
    _copy(f"{_TWO_WAY}.mlp.lin1.{{p}}", f"{_TWO_WAY_HF}.mlp.proj_in.{{p}}"),
    _copy(f"{_TWO_WAY}.mlp.lin2.{{p}}", f"{_TWO_WAY_HF}.mlp.proj_out.{{p}}"),
    *_attention(f"{_MASK}.transformer.final_attn_token_to_image", "mask_decoder.transformer.final_attn_token_to_image"),
    _copy(f"{_MASK}.transformer.norm_final_attn.{{p}}", "mask_decoder.transformer.layer_norm_final_attn.{p}"),
    *(_copy(f"{_MASK}.output_upscaling.{i}.{{p}}", f"mask_decoder.{name}.{{p}}") for i, name in _UPSCALING.items()),
    *(_copy(f"{_MASK}.{name}.{{p}}", f"mask_decoder.{name}.{{p}}") for name in ("conv_s0", "conv_s1")),
    *(
        _copy(f"{_MASK}.{name}.weight", f"mask_decoder.{name}.weight")
        for name in ("iou_token", "mask_tokens", "obj_score_token")
    ),
    *_three_layers(f"{_MASK}.output_hypernetworks_mlps.{{n}}", "mask_decoder.output_hypernetworks_mlps.{n}"),
    *_three_layers(f"{_MASK}.iou_prediction_head", "mask_decoder.iou_prediction_head"),
    *_three_layers(f"{_MASK}.pred_obj_score_head", "mask_decoder.pred_obj_score_head"),
)

TRACKER_RULES = (*MEMORY_RULES, *INTERACTIVE_RULES)
"""Official tracker (no prefix) -> `Sam3TrackerVideoModel` without its vision encoder."""
