"""Tiny models that make picture and sound together, from ComfyUI's own classes and through its own loaders: LTX-2 and
its VAEs. Every weight is drawn from its name."""
import json
from typing import Any

import comfy.ops
import comfy.sd
import torch
from make_tiny_models import draw

LTX: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 24, "cross_attention_dim": 48, "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 16, "audio_cross_attention_dim": 32, "caption_channels": 40, "num_layers": 2,
    "in_channels": 128, "audio_in_channels": 128, "positional_embedding_max_pos": [20, 2048, 2048],
    "audio_positional_embedding_max_pos": [20], "causal_temporal_positioning": True, "use_middle_indices_grid": True,
    "timestep_scale_multiplier": 1000, "av_ca_timestep_scale_multiplier": 1000, "rope_type": "split",
    "frequencies_precision": "float64", "connector_attention_head_dim": 24, "connector_num_attention_heads": 2,
    "connector_num_layers": 1, "audio_connector_attention_head_dim": 16, "audio_connector_num_attention_heads": 2}
LTX23 = {**LTX, "apply_gated_attention": True, "cross_attention_adaln": True, "caption_proj_before_connector": True,
         "caption_projection_first_linear": False, "connector_apply_gated_attention": True}
VIDEO_VAE: dict[str, Any] = {
    "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128,
    "encoder_blocks": [["res_x", {"num_layers": 1}], ["compress_space_res", {"multiplier": 2}],
                       ["compress_time_res", {"multiplier": 2}], ["compress_all_res", {"multiplier": 2}],
                       ["compress_all_res", {"multiplier": 2}], ["res_x", {"num_layers": 1}]],
    "decoder_blocks": [["res_x", {"num_layers": 1, "inject_noise": False}], ["compress_space", {"multiplier": 2}],
                       ["compress_time", {"multiplier": 2}], ["compress_all", {"multiplier": 2}],
                       ["compress_all", {"multiplier": 2}], ["res_x", {"num_layers": 1, "inject_noise": False}]],
    "scaling_factor": 1.0, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
    "use_quant_conv": False, "causal_decoder": False, "timestep_conditioning": False, "spatial_padding_mode": "zeros",
    "encoder_base_channels": 8, "decoder_base_channels": 8}


def drawn(module: torch.nn.Module, gain: float = 1.0) -> dict[str, torch.Tensor]:
    """A state dict for it; weights keep the size of what passes them, times `gain`."""
    weights = {}
    for name, value in module.state_dict().items():
        if "std-of" in name:
            weights[name] = torch.ones(value.shape)
        elif "mean-of" in name:
            weights[name] = torch.zeros(value.shape)
        else:
            weights[name] = draw(name, tuple(value.shape), False) * (gain if value.ndim > 1 else 1)
    return weights


def load_ltx(config: dict[str, Any] = LTX):
    """A MODEL; without the connectors, which ComfyUI 0.7 has in the text encoder."""
    from comfy.ldm.lightricks.av_model import LTXAVModel
    module = LTXAVModel(**config, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init)
    weights = {name: value for name, value in drawn(module, 2).items()}
    return comfy.sd.load_diffusion_model_state_dict(weights, metadata={"config": json.dumps({"transformer": config})})


def load_ltx_vae() -> comfy.sd.VAE:
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
    return comfy.sd.VAE(sd=drawn(VideoVAE(0, VIDEO_VAE)), metadata={"config": json.dumps({"vae": VIDEO_VAE})},
                        dtype=torch.float32)
