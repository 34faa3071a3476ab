"""Tiny InfiniteTalk in this process: ComfyUI's own Wan 2.1 I2V and its model patch, their inputs, and whole takes."""
import types
from functools import cache

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import tiny_talk
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from comfy_extras.nodes_model_patch import ModelPatchLoader
from draws import random
from lodestar import backbones
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import ChunkRequest
from lodestar.backbones.infinitetalk.patching import with_speech_patch
from lodestar.backbones.speech_guider import SpeechGuider
from lodestar.host.chunk_sampler import Sampling
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.techniques.timeline import Timeline

FRAMES, SIZE, SECONDS, RATE = 6, (8, 8), 3, 16000


@cache
def load_plain(tiny_models, dtype=torch.float32):
    path = tiny_models / "models" / "diffusion_models" / f"{tiny_talk.INFINITETALK}_i2v.safetensors"
    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})


@cache
def load_patch(tiny_models):
    folder_paths.add_model_folder_path("model_patches", str(tiny_models / "models" / "model_patches"))
    return ModelPatchLoader().load_model_patch(f"{tiny_talk.INFINITETALK}.safetensors")[0]


def load(tiny_models, **own):
    """Both in one MODEL, ready to be called."""
    joined = with_speech_patch(load_plain(tiny_models), load_patch(tiny_models), 1.0, **own)
    comfy.model_management.load_models_gpu([joined])
    return joined


def load_vae(tiny_models):
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(
        tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors")), dtype=torch.float32)


def features(steps=75, speakers=1, rate_hz=25.0, layers=12, seed=5):
    """As Audio Features gives them."""
    streams = tuple(tuple(random(1, steps, 768, seed=seed + 20 * speaker + layer) for layer in range(layers))
                   for speaker in range(speakers))
    several = {} if speakers == 1 else {"audio_streams": streams, "speaker_masks": halves()}
    return {"encoded_audio": streams[0][-1], "encoded_audio_all_layers": streams[0], "rate_hz": rate_hz,
            "audio_samples": int(steps / rate_hz * RATE), **several}


def halves():
    masks = torch.zeros(1, 3, 64, 64)
    masks[:, 0, :, :28], masks[:, 1, :, 36:], masks[:, 2, :, 28:36] = 1, 1, 1
    return masks


def audio_in(model, speech, first_latent=0, latents=FRAMES):
    return backbones.find(model).audio_for(Speech.of(speech), Timeline(25), first_latent, latents)


def apply(model, x, sigma=0.7, options=None, **conds):
    """The denoised prediction through BaseModel.apply_model, as a sampler calls it."""
    given = {"c_crossattn": random(1, 7, 4096, seed=3), "c_concat": random(1, 20, x.shape[2], *SIZE, seed=4),
             "clip_fea": random(1, 257, 1280, seed=8)}
    given = {name: value.expand(len(x), *value.shape[1:]) for name, value in given.items()}
    transformer_options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
                           "cond_or_uncond": [0], "uuids": ["a"], **(options or {})}
    with torch.inference_mode():
        return model.model.apply_model(x, torch.full((len(x),), sigma), transformer_options=transformer_options,
                                       **{**given, **conds})


def guider(model, scale, conditions, uncond):
    text, vision = random(1, 7, 4096, seed=3), vision_output()
    return SpeechGuider(model, [[text, {**conditions, **vision}]], [[text + 1, {**conditions, **uncond, **vision}]],
                        scale, 4.0, False)


def vision_output(seed=8):
    """What a prompt has of CLIP vision."""
    found = random(1, 257, 1280, seed=seed)
    return {"clip_vision_output": types.SimpleNamespace(penultimate_hidden_states=found)}


def inputs_of(model, context=None, latents=FRAMES, speakers=1):
    backbone = backbones.find(model)
    people = halves() if speakers > 1 else None
    return backbone.chunk_inputs(ChunkRequest(
        latents, (16, *SIZE), context, random(1, 16, 1, *SIZE, seed=2),
        audio_in(model, features(speakers=speakers), 0, latents), random(1, 16, latents, *SIZE, seed=6), people))


def session(model, tiny_models, output, speech, picture=None, guider=None):
    """A take of three chunks; `picture` is an IMAGE."""
    audio = {"waveform": torch.zeros(1, 1, SECONDS * RATE), "sample_rate": RATE}
    take = LodestarPlanTake.execute(model=model, audio=audio, fps=25.0, script="", width=64, height=64,
                                    chunk_frames=33, overlap_frames=9, seed_step=1, max_seconds=0.0).args[0]
    text, vision = random(1, 7, 4096, seed=3), vision_output()
    made = guider or SpeechGuider(model, [[text, vision]], [[text, vision]], 1.0, 2.0, False)
    folder_paths.set_output_directory(str(output))
    sampling = Sampling(Noise_RandomNoise(3), made, comfy.samplers.sampler_object("euler"),
                        torch.tensor([1.0, 0.5, 0.0]))
    return TakeSession(TakeInputs(model, load_vae(tiny_models), take.plan, picture, speech), sampling, take,
                       types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))
