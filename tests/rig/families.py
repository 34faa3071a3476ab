"""The model families that the pack supports: each one a record with its tiny model, and what a chunk of it looks like.

Whatever must hold on every family is a test over FAMILIES; a new family joins all of them with its record here.
"""
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.nested_tensor import NestedTensor
from draws import random
from joint_models import load_h3, load_ltx
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import Backbone, ChunkInputs, ChunkRequest, pictures_of
from lodestar.backbones.infinitetalk.patching import with_speech_patch
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.omniavatar.loader import load_omniavatar
from lodestar.backbones.student_files import StudentFiles
from lodestar.nodes.load_student import LOADERS
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.persistent_latents import Memory
from lodestar.techniques.technique import ChunkPosition
from torch import Tensor

SIZE, LATENTS, FIRST = (8, 8), 6, 4     # of latents; a chunk's, the number of its first
TEXT_TOKENS = 16


@dataclass(frozen=True)
class Family:
    """`title`: in the table of backbones. `load`: a MODEL of a tiny checkpoint in the folder of tiny models.

    `module`: of ComfyUI, without which it cannot run. `by_core`: whether ComfyUI runs the model without the pack.
    `own_reference`: whether the take's picture is one of the model's own frames. `joint`: whether text is in one
    attention with the frames, so that it tells them of what they do not attend to. `driven`: whether it follows a
    driving video. `alone`: whether no picture can stand beside its own reference. `attention`: a layer whose weight a
    LoRA may change. `text`: width of its prompts, `values`: what they have beside it. `given`: what says of the user's
    conditioning that the picture opens the video. `first`: of a later chunk, its first latent. `sound`: of sound
    latents beside the picture's, 0 along their time.
    """
    title: str
    load: Callable[[Path], Any]
    module: str = "comfy.ldm.wan.model"
    by_core: bool = True
    own_reference: bool = False
    joint: bool = False
    driven: bool = False
    alone: bool = False
    attention: str = "blocks.0.self_attn.q"
    text: int = 4096
    values: Mapping[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    vae: str = "lodestar_tiny_wan_vae.safetensors"
    first: int = FIRST
    sound: tuple[int, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether this ComfyUI has it."""
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:     # not even the folder
            return False


def load_by_core(name: str, models: Path):
    return comfy.sd.load_diffusion_model(str(models / "diffusion_models" / f"lodestar_tiny_{name}.safetensors"),
                                         model_options={"dtype": torch.float32})


def load_by_pack(name: str, models: Path):
    return load_longcat(str(models / "diffusion_models" / f"lodestar_tiny_{name}.safetensors"))


def load_omni(models: Path):
    folder = models / "diffusion_models"
    return load_omniavatar(folder / "lodestar_tiny_omniavatar_wan21_t2v.safetensors",
                           folder / "lodestar_tiny_omniavatar.pt")


def load_student(name: str, models: Path, base: str | None = None):
    folder = "loras" if base else "diffusion_models"
    files = StudentFiles(models / folder / name, "ema", base and models / "diffusion_models" / base)
    return LOADERS[files.kind()](files)


def load_infinitetalk(models: Path):
    from comfy_extras.nodes_model_patch import ModelPatchLoader
    folder_paths.add_model_folder_path("model_patches", str(models / "model_patches"))
    patch = ModelPatchLoader().load_model_patch("lodestar_tiny_infinitetalk.safetensors")[0]
    return with_speech_patch(load_by_core("infinitetalk_i2v", models), patch, 1.0)


LONGCAT: dict[str, Any] = {"by_core": False, "attention": "blocks.0.attn.proj"}
COGVIDEOX: dict[str, Any] = {"module": "comfy.ldm.cogvideo.model", "attention": "blocks.0.q", "joint": True}
HUNYUAN: dict[str, Any] = {
    "module": "comfy.ldm.hunyuan_video.model", "attention": "double_blocks.0.img_attn.proj", "joint": True, "text": 64,
    "values": {"pooled_output": random(1, 768, seed=5)}}
FAMILIES = {
    "wan21_t2v": Family("Wan 2.1, 2.2 T2V", partial(load_by_core, "wan21_t2v")),
    "wan21_i2v": Family("Wan 2.1, 2.2 I2V", partial(load_by_core, "wan21_i2v")),
    "wan22_ti2v": Family("Wan 2.2 TI2V-5B", partial(load_by_core, "wan22_ti2v")),
    "wan22_s2v": Family("Wan 2.2 S2V", partial(load_by_core, "wan22_s2v"), own_reference=True),
    "infinitetalk": Family("InfiniteTalk, MultiTalk", load_infinitetalk, "comfy.ldm.wan.model_multitalk", False),
    "humo_17b": Family("HuMo 17B", partial(load_by_core, "humo_17b"), by_core=False,
                       own_reference=True),
    "humo_1_7b": Family("HuMo 1.7B", partial(load_by_core, "humo_1_7b"), by_core=False,
                        own_reference=True),
    "animate": Family("Wan-Animate", partial(load_by_core, "wan22_animate"), own_reference=True, driven=True),
    "animate_2": Family("Wan-Animate 2", partial(load_by_core, "wan_animate_2"), "comfy.ldm.wan.model_animate2",
                        own_reference=True, driven=True, alone=True),
    "omniavatar": Family("OmniAvatar 14B, 1.3B", load_omni, by_core=False),
    "avatarforcing": Family("AvatarForcing", partial(load_student, "lodestar_tiny_avatarforcing.pt"), by_core=False),
    "causal_wan": Family("Self-Forcing, Causal-Forcing", partial(load_student, "lodestar_tiny_self_forcing.pt")),
    "liveavatar": Family("LiveAvatar", partial(load_student, "lodestar_tiny_liveavatar.safetensors",
                                               base="lodestar_tiny_wan22_s2v.safetensors"), own_reference=True),
    "longcat_video": Family("LongCat-Video", partial(load_by_pack, "longcat_video"), **LONGCAT),
    "longcat_avatar": Family("LongCat-Video-Avatar 1.0", partial(load_by_pack, "longcat_avatar"), **LONGCAT),
    "longcat_avatar15": Family("LongCat-Video-Avatar 1.5", partial(load_by_pack, "longcat_avatar15"), **LONGCAT),
    "cogvideox_5b": Family("CogVideoX 5B", partial(load_by_core, "cogvideox_5b"), **COGVIDEOX),
    "cogvideox_5b_i2v": Family("CogVideoX 5B I2V", partial(load_by_core, "cogvideox_5b_i2v"), **COGVIDEOX),
    "cogvideox_15": Family("CogVideoX 1.5", partial(load_by_core, "cogvideox_15"), **COGVIDEOX),
    "cogvideox_15_i2v": Family("CogVideoX 1.5 I2V", partial(load_by_core, "cogvideox_15_i2v"), **COGVIDEOX),
    "hunyuan_t2v": Family("HunyuanVideo T2V", partial(load_by_core, "hunyuan_t2v"), **HUNYUAN),
    "hunyuan_replace": Family("HunyuanVideo I2V (replace)", partial(load_by_core, "hunyuan_t2v"), by_core=False,
                              given=frozenset({"guiding_frame_index"}), **HUNYUAN),
    "hunyuan_i2v": Family("HunyuanVideo I2V (concat), SkyReels V1", partial(load_by_core, "hunyuan_i2v"), **HUNYUAN),
    "hunyuan15": Family("HunyuanVideo 1.5", partial(load_by_core, "hunyuan15"), given=frozenset({"clip_vision_output"}),
                        **{**HUNYUAN, "values": {"pooled_output": None}}),
    "ltx": Family("LTX-2, 2.3, 2.5", lambda models: load_ltx(), "comfy.ldm.lightricks.av_model", text=80,
                  attention="transformer_blocks.0.attn1.to_q", sound=(1, 8, 0, 16)),
    "minimax_h3": Family("MiniMax H3", lambda models: load_h3(), "comfy.ldm.minimax.model", joint=True, text=40,
                         first=5, by_core=False, attention="blocks.0.attn.out_proj", sound=(1, 32, 2, 0)),
}


@cache
def load_family(name: str, models: Path):
    """Its MODEL, loaded, once in a process."""
    model = FAMILIES[name].load(models)
    comfy.model_management.load_models_gpu([model])
    return model


@dataclass(frozen=True)
class PoseFrames:
    """A part of a driving video, as a chunk reads it."""
    frames: int

    def read(self, fit: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([fit(picture) for picture in torch.rand(self.frames, 16, 16, 3)])


@dataclass(frozen=True)
class FamilyChunk:
    """One chunk of a take on one family: what Long Take gives it, and one run of ComfyUI's sampler."""
    family: Family
    model: Any

    @property
    def backbone(self) -> Backbone:
        return backbones.find(self.model)

    @property
    def repeated(self) -> int:
        """How many of the chunk's latents repeat the last one's, where it has them."""
        return 2 if self.backbone.overlap_frames else 0

    def picture(self, seed: int, frames: int = 1) -> Tensor:
        """A LATENT's samples (1, C, frames, h, w)."""
        return random(1, self.backbone.latent_channels(self.model.model), frames, *SIZE, seed=seed)

    def audio(self, seed: int = 20, latents: int = LATENTS, first: int = FIRST) -> Tensor | None:
        """The chunk's audio features."""
        backbone = self.backbone
        if backbone.audio_shape is None:
            return None
        layers, width = backbone.audio_shape
        stream = tuple(random(1, 400, width, seed=seed + layer) for layer in range(layers))
        speech = Speech((stream,), 32.0 if backbone.fps == 16 else 25.0)
        return backbone.audio_for(speech, backbone.timeline(Fraction(backbone.fps)), first, latents)

    def inputs(self, chunk: int = 1, context: int = 7, picture: int = 6, latents: int = LATENTS,
               persistent: Memory | None = None) -> ChunkInputs:
        """Of the take's `chunk`, 0 or 1. `context`: the seed of what is handed over, `picture`: of the take's."""
        past = self.picture(context, self.backbone.context_latents(2)) if chunk else None
        first = self.family.first * chunk
        return self.backbone.chunk_inputs(ChunkRequest(
            latents, (self.backbone.latent_channels(self.model.model), *SIZE), past, self.picture(picture),
            self.audio(20, latents, first), self.picture(8, latents), driving=self.driving(latents),
            encode=self.encode, given=self.family.given, encode_sound=self.encode_sound, persistent=persistent))

    def driving(self, latents: int) -> dict[str, Any]:
        """Poses, for a family that follows them."""
        return {"pose": PoseFrames(latents * 4 - 3)} if self.family.driven else {}

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of as many frames, whatever they show."""
        return self.picture(30, (len(frames) - 1) // 4 + 1)

    def encode_sound(self, samples: Tensor, begin: Fraction, seconds: Fraction) -> Tensor:
        """Sound latents, more than a family takes, whatever sounds."""
        return random(*(size or int(seconds * 50) + 2 for size in self.family.sound), seed=int(samples[0, 0, 0] * 1e4))

    def prompt(self, seed: int) -> list:
        return [[random(1, TEXT_TOKENS, self.family.text, seed=seed), dict(self.family.values)]]

    def guider(self, model) -> comfy.samplers.CFGGuider:
        """Core's, both branches."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.prompt(3), self.prompt(4))
        guider.set_cfg(2.0)
        return guider

    def guider_at(self, guider, techniques, inputs: ChunkInputs, chunk: int = 1, seconds: int = 1,
                  identity: Tensor | None = None, opening: Tensor | None = None):
        """The same for the chunk, as Long Take makes it: a later one is stitched."""
        techniques = (LatentStitch(self.backbone.handover), *techniques) if chunk else techniques
        position = ChunkPosition(Fraction(seconds), self.picture(6), inputs.context, chunk, self.family.first * chunk,
                                 identity=identity, opening=opening)
        return attach.guider_at(guider, techniques, position, inputs.conditions, inputs.uncond)

    def run(self, guider, inputs: ChunkInputs, steps: int = 2) -> Tensor:
        """What the sampler gives: (1, C, t, h, w)."""
        with torch.inference_mode():
            return pictures_of(guider.sample(noise_like(inputs.samples), inputs.samples,
                                             comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, steps + 1),
                                             denoise_mask=inputs.noise_mask, disable_pbar=True, seed=1))

    def sample(self, *techniques, model=None, chunk: int = 1, seconds: int = 1, steps: int = 2,
               identity: Tensor | None = None, opening: Tensor | None = None, **inputs) -> Tensor:
        """The chunk's new latents, with `techniques`. `model`: with other nodes' patches. `inputs`: as of `inputs`."""
        given = self.inputs(chunk, **inputs)
        guider = self.guider_at(self.guider(self.model if model is None else model), techniques, given, chunk, seconds,
                                identity, opening)
        return given.new_latents(self.run(guider, given, steps), self.repeated * chunk)


def noise_like(samples):
    """Noise for a sampler's latent, of picture and sound where it has both."""
    if not samples.is_nested:
        return random(*samples.shape, seed=1)
    return NestedTensor(random(*part.shape, seed=seed) for seed, part in enumerate(samples.unbind(), 1))


def load_vae(family: Family, models: Path):
    """The VAE that belongs to it, tiny."""
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(models / "vae" / family.vae)), dtype=torch.float32)
