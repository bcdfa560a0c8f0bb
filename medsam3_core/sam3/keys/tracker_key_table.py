"""The key table of the tracker (interactive head, memory, propagation): official -> `Sam3TrackerVideoModel`."""

from medsam3_core.sam3.keys.key_table import Op, Rule, copied

_PROMPT, _MASK = "sam_prompt_encoder", "sam_mask_decoder"
_FUSE, _MEMORY = "transformer.encoder.layers.{n}", "memory_attention.layers.{n}"
_TWO_WAY = f"{_MASK}.transformer.layers.{{n}}"
_TWO_WAY_HF = "mask_decoder.transformer.layers.{n}"
_DOWN, _DOWN_HF = "maskmem_backbone.mask_downsampler.encoder", "memory_encoder.mask_downsampler"
_FUSER, _FUSER_HF = "maskmem_backbone.fuser.layers.{n}", "memory_encoder.memory_fuser.layers.{n}"


def _attention(official: str, target: str) -> tuple[Rule, ...]:
    """The tracker's attention has separate query, key and value; only the output is renamed."""
    return (
        *(copied(f"{official}.{part}_proj.{{p}}", f"{target}.{part}_proj.{{p}}") for part in "qkv"),
        copied(f"{official}.out_proj.{{p}}", f"{target}.o_proj.{{p}}"),
    )


def _three_layers(official: str, target: str) -> tuple[Rule, ...]:
    """An MLP of three layers: `transformers` names the outer two."""
    names = ("proj_in", "layers.0", "proj_out")
    return tuple(copied(f"{official}.layers.{i}.{{p}}", f"{target}.{name}.{{p}}") for i, name in enumerate(names))


MEMORY_RULES = (
    copied("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    copied("no_mem_embed", "no_memory_embedding"),
    copied("no_mem_pos_enc", "no_memory_positional_encoding"),
    copied("no_obj_ptr", "no_object_pointer"),
    copied("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    copied("mask_downsample.{p}", "mask_downsample.{p}"),
    copied("obj_ptr_tpos_proj.{p}", "temporal_positional_encoding_projection_layer.{p}"),
    *_three_layers("obj_ptr_proj", "object_pointer_proj"),
    *_attention(f"{_FUSE}.self_attn", f"{_MEMORY}.self_attn"),
    *_attention(f"{_FUSE}.cross_attn_image", f"{_MEMORY}.cross_attn_image"),
    *(copied(f"{_FUSE}.linear{i}.{{p}}", f"{_MEMORY}.linear{i}.{{p}}") for i in (1, 2)),
    *(copied(f"{_FUSE}.norm{i}.{{p}}", f"{_MEMORY}.layer_norm{i}.{{p}}") for i in (1, 2, 3)),
    copied("transformer.encoder.norm.{p}", "memory_attention.layer_norm.{p}"),
    *(
        rule
        for i in range(4)
        for rule in (
            copied(f"{_DOWN}.{3 * i}.{{p}}", f"{_DOWN_HF}.layers.{i}.conv.{{p}}"),
            copied(f"{_DOWN}.{3 * i + 1}.{{p}}", f"{_DOWN_HF}.layers.{i}.layer_norm.{{p}}"),
        )
    ),
    copied(f"{_DOWN}.12.{{p}}", f"{_DOWN_HF}.final_conv.{{p}}"),
    copied("maskmem_backbone.pix_feat_proj.{p}", "memory_encoder.feature_projection.{p}"),
    copied("maskmem_backbone.out_proj.{p}", "memory_encoder.projection.{p}"),
    copied(f"{_FUSER}.gamma", f"{_FUSER_HF}.scale"),
    copied(f"{_FUSER}.dwconv.{{p}}", f"{_FUSER_HF}.depthwise_conv.{{p}}"),
    copied(f"{_FUSER}.norm.{{p}}", f"{_FUSER_HF}.layer_norm.{{p}}"),
    *(copied(f"{_FUSER}.pwconv{i}.{{p}}", f"{_FUSER_HF}.pointwise_conv{i}.{{p}}") for i in (1, 2)),
)

_DOWNSCALING = {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}
_UPSCALING = {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}

INTERACTIVE_RULES = (
    Rule(
        f"{_PROMPT}.pe_layer.positional_encoding_gaussian_matrix",
        ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"),
    ),
    Rule(f"{_PROMPT}.point_embeddings.{{n}}.weight", ("prompt_encoder.point_embed.weight",), Op.JOIN),
    copied(f"{_PROMPT}.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
    copied(f"{_PROMPT}.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
    *(
        copied(f"{_PROMPT}.mask_downscaling.{i}.{{p}}", f"prompt_encoder.mask_embed.{name}.{{p}}")
        for i, name in _DOWNSCALING.items()
    ),
    *(
        rule
        for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
        for rule in _attention(f"{_TWO_WAY}.{name}", f"{_TWO_WAY_HF}.{name}")
    ),
    *(copied(f"{_TWO_WAY}.norm{i}.{{p}}", f"{_TWO_WAY_HF}.layer_norm{i}.{{p}}") for i in (1, 2, 3, 4)),
    copied(f"{_TWO_WAY}.mlp.lin1.{{p}}", f"{_TWO_WAY_HF}.mlp.proj_in.{{p}}"),
    copied(f"{_TWO_WAY}.mlp.lin2.{{p}}", f"{_TWO_WAY_HF}.mlp.proj_out.{{p}}"),
    *_attention(f"{_MASK}.transformer.final_attn_token_to_image", "mask_decoder.transformer.final_attn_token_to_image"),
    copied(f"{_MASK}.transformer.norm_final_attn.{{p}}", "mask_decoder.transformer.layer_norm_final_attn.{p}"),
    *(copied(f"{_MASK}.output_upscaling.{i}.{{p}}", f"mask_decoder.{name}.{{p}}") for i, name in _UPSCALING.items()),
    *(copied(f"{_MASK}.{name}.{{p}}", f"mask_decoder.{name}.{{p}}") for name in ("conv_s0", "conv_s1")),
    *(
        copied(f"{_MASK}.{name}.weight", f"mask_decoder.{name}.weight")
        for name in ("iou_token", "mask_tokens", "obj_score_token")
    ),
    *_three_layers(f"{_MASK}.output_hypernetworks_mlps.{{n}}", "mask_decoder.output_hypernetworks_mlps.{n}"),
    *_three_layers(f"{_MASK}.iou_prediction_head", "mask_decoder.iou_prediction_head"),
    *_three_layers(f"{_MASK}.pred_obj_score_head", "mask_decoder.pred_obj_score_head"),
)

TRACKER_RULES = (*MEMORY_RULES, *INTERACTIVE_RULES)
"""Official tracker (no prefix) -> `Sam3TrackerVideoModel` without its vision encoder."""
