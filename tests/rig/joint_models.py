"""Tiny models that make picture and sound together, from ComfyUI's own classes and through its own loaders: LTX-2 and
MiniMax H3 with their VAEs. Every weight is drawn from its name."""
import importlib.util
import json
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.sd
import small_h3
import torch
from make_tiny_models import draw
from safetensors.torch import save_file
from stand_ins import H3_LORA, H3_NETWORK, H3_SOUND_VAE, H3_VAE, LTX_CHECKPOINT, LTX_LORA

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
LTX25 = {**LTX23, "use_keyframes_abs_pos_embedding": True}
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


DIFFUSION_VAE: dict[str, Any] = {       # 2.4's, whose decoder reaches less than two latents to either side
    "_class_name": "CausalDiffusionVAE", "dims": 3, "model_output_type": "x0",
    "encoder": {"base_channels": 8, "blocks": VIDEO_VAE["encoder_blocks"]},
    "decoder": {"head_dim": 16, "stage_channels": [128, 64, 32, 32, 16], "stage_depths": [1] * 5,
                "stage_kernels": [[3, 3, 3]] * 5, "stage5_kernel": [3, 3, 3]}}


def load_ltx_diffusion_vae() -> comfy.sd.VAE:
    from comfy.ldm.lightricks.vae.na_diffusion_decoder import CausalDiffusionVAE
    return comfy.sd.VAE(sd=drawn(CausalDiffusionVAE(DIFFUSION_VAE)), dtype=torch.float32,
                        metadata={"config": json.dumps({"vae": DIFFUSION_VAE})})


H3: dict[str, Any] = {
    "hidden_size": 32, "num_layers": 3, "token_refiner_num_layers": 1, "num_attention_heads": 2,
    "attention_head_dim": 16, "ffn_hidden_size": 48, "latents_dim": 24, "audio_latents_dim": 32, "text_dim": 40,
    "timestep_input_dim": 16, "time_embed_hidden_size": 24, "time_embed_dim": 16, "rope_inv_freq_len": 2}


def h3_weights() -> dict[str, torch.Tensor]:
    from comfy.ldm.minimax.model import MiniMaxH3Model
    module = MiniMaxH3Model(**H3, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init)
    return {**drawn(module, 1.5), "rope.inv_freq": 0.3 * 10_000 ** -(torch.arange(2) / 2)}


def load_h3():
    """A MODEL, which ComfyUI knows by its shapes alone."""
    return comfy.sd.load_diffusion_model_state_dict(h3_weights())


def h3_vae_weights() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The picture's VAE and the sound's, of the size that small_h3 gives ComfyUI's classes."""
    with small_h3.small():
        from comfy.ldm.minimax.audio_vae import MiniMaxH3AudioVAE
        from comfy.ldm.minimax.vae import MiniMaxH3VideoVAE
        picture, sound = MiniMaxH3VideoVAE(), MiniMaxH3AudioVAE()
    statistics = {name: getattr(picture, name) for name in ("latents_mean", "latents_std")}
    return ({**drawn(picture), **statistics},
            {**drawn(sound), "latents_mean": torch.zeros(32), "latents_std": torch.ones(32)})


def load_h3_vae() -> comfy.sd.VAE:
    weights, _ = h3_vae_weights()
    with small_h3.small():
        return comfy.sd.VAE(sd=weights, dtype=torch.float32)


LTX_SOUND: dict[str, Any] = {
    "audio_vae": {
        "model": {"params": {"sampling_rate": 16_000, "ddconfig": {
            "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "downsample_time": False,
            "in_channels": 2, "out_ch": 2, "ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [],
            "dropout": 0.0, "mid_block_add_attention": False, "norm_type": "pixel", "causality_axis": "height"}}},
        "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}}},
    "vocoder": {"upsample_initial_channel": 32, "output_sample_rate": 24_000}}


def load_ltx_sound_vae() -> Any:
    """As LTXV Audio VAE Loader gives it: a VAE, in ComfyUI 0.7 the network itself."""
    from comfy.ldm.lightricks.vae import audio_vae
    from comfy.ldm.lightricks.vae.causal_audio_autoencoder import CausalAudioAutoencoder
    from comfy.ldm.lightricks.vocoders.vocoder import Vocoder
    parts = {"audio_vae": CausalAudioAutoencoder(config=LTX_SOUND["audio_vae"]),
             "vocoder": Vocoder(config=LTX_SOUND["vocoder"])}
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in drawn(part).items()}
    metadata = {"config": json.dumps(LTX_SOUND)}
    if hasattr(audio_vae, "ModelDeviceManager"):
        return audio_vae.AudioVAE(weights, metadata)
    renamed = {key.replace("audio_vae.", "autoencoder."): value for key, value in weights.items()}
    return comfy.sd.VAE(sd=renamed, metadata=metadata)


def load_h3_sound_vae() -> comfy.sd.VAE:
    _, weights = h3_vae_weights()
    with small_h3.small():
        return comfy.sd.VAE(sd=weights)


def one_layer(name: str, out: int, into: int) -> dict[str, torch.Tensor]:
    """A LoRA of rank 2 of one layer."""
    key = f"diffusion_model.{name}"
    return {f"{key}.lora_A.weight": torch.ones(2, into) / 64, f"{key}.lora_B.weight": torch.ones(out, 2) / 64}


def write_official(models: Path) -> None:
    """LTX-2.3's checkpoint, network and VAEs in one file, and its LoRA, tiny, below ComfyUI's models folder; MiniMax
    H3's network, LoRA and VAEs, the last for a ComfyUI that has small_h3 in its custom_nodes. A ComfyUI without H3 has
    no LTX-2.3 either: there it is LTX-2's."""
    from comfy.ldm.lightricks.av_model import LTXAVModel
    from comfy.ldm.lightricks.vae.causal_audio_autoencoder import CausalAudioAutoencoder
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
    from comfy.ldm.lightricks.vocoders.vocoder import Vocoder
    newer = importlib.util.find_spec("comfy.ldm.minimax") is not None
    config = LTX23 if newer else LTX
    parts = {"model.diffusion_model": LTXAVModel(**config, dtype=torch.float32, device="meta",
                                                 operations=comfy.ops.disable_weight_init),
             "vae": VideoVAE(0, VIDEO_VAE), "audio_vae": CausalAudioAutoencoder(config=LTX_SOUND["audio_vae"]),
             "vocoder": Vocoder(config=LTX_SOUND["vocoder"])}
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in drawn(part).items()}
    files: list[tuple[str, dict[str, torch.Tensor], dict[str, Any]]] = [
        (LTX_CHECKPOINT, weights, {"transformer": config, "vae": VIDEO_VAE, **LTX_SOUND}),
        (LTX_LORA, one_layer("transformer_blocks.0.attn1.to_q", 48, 48), {})]
    if newer:
        network, (vae, sound_vae) = h3_weights(), h3_vae_weights()
        files += [(H3_NETWORK, network, {}), (H3_LORA, one_layer("blocks.1.attn.qkv_proj", 96, 32), {}),
                  (H3_VAE, vae, {}), (H3_SOUND_VAE, sound_vae, {})]
    for name, tensors, said in files:
        (models / name).unlink(missing_ok=True)
        save_file({part: value.contiguous() for part, value in tensors.items()}, models / name,
                  metadata={"config": json.dumps(said)})
