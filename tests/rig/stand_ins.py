"""Tiny models under the names of official ones, so that workflows made for those open and run as they are.

Text encoder and CLIP vision cannot be tiny: an empty file of its name stands where each would be, to be listed and
never loaded.
"""
import json
from pathlib import Path

from lib.environment import link_or_copy

SHARD, WHOLE = "diffusion_pytorch_model-00001-of-00001.safetensors", "model.safetensors"
OFFICIAL = {    # name -> tiny file or folder, and what the file is called in the official folder
    "longcat/LongCat-Video-Avatar-1.5/base_model_int8": ("longcat/lodestar_tiny_longcat_avatar15_int8", ""),
    "longcat/LongCat-Video-Avatar/avatar_single": ("diffusion_models/lodestar_tiny_longcat_avatar.safetensors", SHARD),
    "longcat/LongCat-Video/dit": ("diffusion_models/lodestar_tiny_longcat_video.safetensors", SHARD),
    "loras/LongCat-Video-Avatar-1.5/lora/dmd_lora.safetensors":
        ("loras/lodestar_tiny_longcat_avatar15_lora.safetensors", ""),
    "loras/LongCat-Video/lora/refinement_lora.safetensors":
        ("loras/lodestar_tiny_longcat_video_lora.safetensors", ""),
    "audio_encoders/whisper_large_v3_encoder_fp16.safetensors":
        ("audio_encoders/lodestar_tiny_longcat_whisper.safetensors", ""),
    "audio_encoders/chinese-wav2vec2-base": ("audio_encoders/lodestar_tiny_longcat_wav2vec2.safetensors", WHOLE),
    "diffusion_models/wan2.2_s2v_14B_fp8_scaled.safetensors":
        ("diffusion_models/lodestar_tiny_wan22_s2v.safetensors", ""),
    "diffusion_models/wan2.1_i2v_480p_14B_fp8_scaled.safetensors":
        ("diffusion_models/lodestar_tiny_infinitetalk_i2v.safetensors", ""),
    "diffusion_models/wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors":
        ("diffusion_models/lodestar_tiny_wan22_i2v.safetensors", ""),
    "diffusion_models/wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors":
        ("diffusion_models/lodestar_tiny_wan22_i2v_low.safetensors", ""),
    "model_patches/wan2.1_infiniteTalk_single_fp16.safetensors":
        ("model_patches/lodestar_tiny_infinitetalk.safetensors", ""),
    "loras/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors":
        ("loras/lodestar_tiny_infinitetalk_lora.safetensors", ""),
    "audio_encoders/wav2vec2-chinese-base_fp16.safetensors":
        ("audio_encoders/lodestar_tiny_chinese_wav2vec2.safetensors", ""),
    "diffusion_models/wan2.2_animate_14B_bf16.safetensors":
        ("diffusion_models/lodestar_tiny_wan22_animate.safetensors", ""),
    "loras/stage2_480p.safetensors": ("loras/lodestar_tiny_everanimate_lora.safetensors", ""),
    "diffusion_models/wan2.1_t2v_14B_fp8_scaled.safetensors":
        ("diffusion_models/lodestar_tiny_omniavatar_wan21_t2v.safetensors", ""),
    "diffusion_models/humo_17B_fp8_e4m3fn.safetensors": ("diffusion_models/lodestar_tiny_humo_17b.safetensors", ""),
    "audio_encoders/whisper_large_v3_fp16.safetensors":
        ("audio_encoders/lodestar_tiny_longcat_whisper.safetensors", ""),
    "diffusion_models/AvatarForcing.pt": ("diffusion_models/lodestar_tiny_avatarforcing.pt", ""),
    "diffusion_models/OmniAvatar-14B.pt": ("diffusion_models/lodestar_tiny_omniavatar.pt", ""),
    "diffusion_models/CogVideoX1.5-5B-I2V/transformer":
        ("diffusion_models/lodestar_tiny_cogvideox_published.safetensors", SHARD),
    "vae/cogvideox_vae.safetensors": ("vae/lodestar_tiny_wan_vae.safetensors", ""),
    "diffusion_models/hunyuan_video_v2_replace_image_to_video_720p_bf16.safetensors":
        ("diffusion_models/lodestar_tiny_hunyuan_t2v.safetensors", ""),
    "vae/hunyuan_video_vae_bf16.safetensors": ("vae/lodestar_tiny_wan_vae.safetensors", ""),
    "audio_encoders/wav2vec2-base-960h": ("audio_encoders/lodestar_tiny_longcat_wav2vec2.safetensors", WHOLE),
    "audio_encoders/wav2vec2_large_english_fp16.safetensors": ("audio_encoders/lodestar_tiny_wav2vec2.safetensors", ""),
    "vae/wan_2.1_vae.safetensors": ("vae/lodestar_tiny_wan_vae.safetensors", ""),
}
LTX_CHECKPOINT = "checkpoints/ltx-2.3-22b-dev-fp8.safetensors"      # joint_models writes tiny ones, with ComfyUI
LTX_LORA = "loras/ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors"
H3_NETWORK = "diffusion_models/minimax_h3_fl2va_pruned_int8_convrot.safetensors"
H3_LORA = "loras/minimax_h3_fl2v_turbo_8step_v1.0_comfyui_bf16.safetensors"
H3_VAE, H3_SOUND_VAE = "vae/minimax_h3_video_vae_fp16.safetensors", "vae/minimax_h3_audio_vae_fp32.safetensors"
EMPTY = (*(f"text_encoders/{name}.safetensors" for name in ("umt5_xxl_fp8_e4m3fn_scaled", "t5xxl_fp16", "clip_l",
                                                           "llava_llama3_fp8_scaled")),
         "clip_vision/clip_vision_h.safetensors", "clip_vision/llava_llama3_vision.safetensors",
         "text_encoders/gemma_3_12B_it_fp4_mixed.safetensors",
         "text_encoders/qwen3vl_32b_minimax_h3_nvfp4_awq.safetensors", LTX_CHECKPOINT, LTX_LORA,
         H3_NETWORK, H3_LORA, H3_VAE, H3_SOUND_VAE)


def place(models: Path) -> None:
    """Into the folder `models` of a ComfyUI base that has the tiny models."""
    for official, (tiny, inside) in OFFICIAL.items():
        source, target = models / tiny, models / official
        if inside:
            as_folder(source, target, inside)
        for file in sorted(source.iterdir()) if source.is_dir() else ():
            link_or_copy(file, target / file.name)
        if source.is_file() and not inside:
            link_or_copy(source, target)
    for name in EMPTY:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).touch()


def as_folder(file: Path, folder: Path, name: str) -> None:
    """One file as `folder`/`name`, with the index of shards and the config.json that stand in its header."""
    with open(file, "rb") as source:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
    config, index = header.pop("__metadata__")["config"], {"weight_map": dict.fromkeys(header, name)}
    link_or_copy(file, folder / name)
    (folder / "config.json").write_text(config, encoding="utf-8")
    if name == SHARD:
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
