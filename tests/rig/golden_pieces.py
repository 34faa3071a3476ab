"""LongCat's white-box golden cases: rotary frequencies, schedules, guidance, speech and masks.

Each is computed by the pack's own function.
"""
import math

import golden
import torch
from torch import Tensor


def rope(call: dict, host: golden.Host) -> dict[str, Tensor]:
    from lodestar.networks.longcat.layers import time_features
    from lodestar.techniques.rope import rope_frequencies, rotate, rotation, split_head
    if "t" in call:
        return {"out": time_features(call["t"], call["dim"])}
    if "positions" in call:
        rows = rotation(call["positions"], call["head_dim"])[None, :, None]
        return {"out": turned(rotate, call["x"], rows)}
    frames, height, width = call["grid"]
    times = tuple(range(frames))
    if call.get("num_ref_latents"):
        times = (call["ref_img_index"], *range(frames - 1))
    rows = rope_frequencies(times, height, width, split_head(call["head_dim"]))
    return {part: turned(rotate, call[part], rows) for part in ("q", "k")}


def turned(rotate, x: Tensor, rows: Tensor) -> Tensor:
    """The fixtures' (B, H, S, D) through the pack's (B, S, H, D)."""
    return rotate(x.transpose(1, 2), rows).transpose(1, 2)


def scheduler(call: dict, host: golden.Host) -> dict[str, Tensor]:
    from lodestar.techniques import flow_schedules, speech_guidance
    if "cond" in call and "uncond_text" in call:
        weights = speech_guidance.shares(call["text_guidance_scale"], call["audio_guidance_scale"])
        predictions = (call["cond"], call["uncond_text"], call["uncond"])
        return {"combined": speech_guidance.combine_predictions(predictions, weights)}
    if "cond" in call:
        return {"scale": speech_guidance.projection_scale(call["cond"], call["uncond"]),
                "combined": speech_guidance.zero_guided(call["cond"], call["uncond"], call["guidance_scale"])}
    if "raw" in call:
        return latent(call, host)
    kind = schedule_kind(call, "1.5" in call.get("model_type", ""))
    sigmas = flow_schedules.schedule(kind, call["steps"], call["shift"], call.get("t_thresh", 0.5))
    timesteps = sigmas[:-1] * 1000
    return {"sigmas": sigmas, "timesteps": timesteps, "timesteps_bf16": timesteps.bfloat16().float(),
            "sigmas_unshifted": flow_schedules.base_grid(kind, call["steps"]).float()}


def schedule_kind(call: dict, newer: bool) -> str:
    """The pack's name for upstream's switches; `newer` is Avatar 1.5."""
    if call.get("use_distill"):
        return "distilled 8" if newer else "distilled"
    return "enhance-hf" if call.get("enhance_hf") else "refine" if "t_thresh" in call else "normal"


def latent(call: dict, host: golden.Host) -> dict[str, Tensor]:
    """ComfyUI's latent format does this in the pack; its formula stands in where there is no ComfyUI."""
    if host.latent_format is not None:
        normalized = host.latent_format.process_in(call["raw"])
        return {"normalized": normalized, "roundtrip": host.latent_format.process_out(normalized)}
    mean, std = (torch.tensor(call[key]).view(1, -1, 1, 1, 1) for key in ("mean", "std"))
    normalized = (call["raw"] - mean) / std
    return {"normalized": normalized, "roundtrip": normalized * std + mean}


def audio(call: dict, host: golden.Host) -> dict[str, Tensor]:
    from lodestar.techniques.audio import features as speech_features
    if "speech" in call:
        return waveform(call)
    if "audio_type" in call:
        return speakers(call)
    if "image_hw" in call:
        return masks(call)
    if "features" in call:
        places = speech_features.positions(call["features"].shape[1], call["seq_len"])
        return {"out": speech_features.interpolate_frames(call["features"].transpose(0, 1), *places).transpose(0, 1)}
    if "full" in call:
        step = call["num_frames"] - call["num_cond_frames"]
        return {f"seg{segment}": call["full"][speech_features.slot_steps(
            segment * step, call["num_frames"], call["audio_stride"], len(call["full"]))][None] for segment in range(8)}
    if "seq_len" in call:
        return {"audio_emb": call["hidden_states"][1:, 0].transpose(0, 1)[:call["seq_len"]]}
    groups = speech_features.whisper_groups(call["hidden_states"])
    steps = call["num_samples"] * call["fps"] // call["sample_rate"]
    return {"audio_emb": torch.cat(list(speech_features.halve_rate([groups], steps)))}


def waveform(call: dict) -> dict[str, Tensor]:
    from lodestar.techniques.audio import waveform as speech_waveform
    rate = call["sample_rate"]
    leveled = speech_waveform.level_loudness(call["speech"], rate)
    noisy = speech_waveform.add_noise_floor(leveled, call["randn"])
    return {"loudness_norm": leveled, "noise_floor": noisy,
            "smooth_transients": torch.cat(list(speech_waveform.filter_blocks(
                [noisy], speech_waveform.lowpass(speech_waveform.LOWPASS_HZ, rate)))).to(noisy),
            "wav2vec_input_values": speech_waveform.prepare_speech(call["speech"], rate, call["randn"])}


def speakers(call: dict) -> dict[str, Tensor]:
    from lodestar.techniques.audio.speaker_tracks import pad_track, place_tracks
    mode = {"para": "together", "add": "in turn"}[call["audio_type"]]
    samples = math.ceil(call["generate_duration"] * call["sample_rate"])
    tracks = place_tracks(mode, call.get("person1"), call.get("person2"))
    raw = place_tracks(mode, call.get("person1_raw"), call.get("person2_raw"))
    return {"person1": pad_track(tracks[0], samples), "person2": pad_track(tracks[1], samples), "mix": raw[0] + raw[1]}


def masks(call: dict) -> dict[str, Tensor]:
    from lodestar.techniques.speaker_masks import box_masks, fitted_masks
    flat = call["others"] or []
    others = [flat[start:start + 4] for start in range(0, len(flat), 4)]
    made = box_masks(*call["image_hw"], call["person1"], call["person2"], others)
    return {"masks": made, "resized": fitted_masks(made, *call["target_hw"])}


PIECES = {"rope": rope, "scheduler": scheduler, "audio": audio}
