"""LongCat-Video and LongCat-Video-Avatar as an ordinary ComfyUI MODEL: samplers, offload, LoRA, EasyCache.

The weights keep their official names under `diffusion_model.`. What a sampler hands over (noise mask, reference, speech
windows) becomes the sequence that the authors trained: conditioning frames first, at timestep 0; the velocity is -M.
"""
from collections.abc import Mapping, Sequence
from functools import partial

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.ops
import comfy.supported_models_base
import torch
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor
from torch.nn.functional import pad

from ...networks.longcat.call import Cached, Groups
from ...networks.longcat.config import LongCatConfig
from ...networks.longcat.network import LongCat, Place
from ...networks.longcat.versions import REFERENCE_INDEX, Version
from ...techniques.attention_guidance import AttentionGuidance
from ...techniques.kv_cache import KVCache, standing
from ...techniques.rope import rotate
from ...techniques.sparse_blocks import SparseBlocks
from ...techniques.speaker_masks import check_masks
from ...techniques.tensor_digest import digest_tensor
from ...techniques.timeline import frames_of
from ..backbone import CACHE_BYTES
from ..frame_conditions import WINDOW
from ..sampling_run import RUN

TEXT_TOKENS = 512
REFERENCE_KEY = "reference_key"     # among a condition's values: the digest of its reference
HIDDEN_PER_FACTOR = 2048    # ComfyUI's memory factor of a video transformer, by its width


class LongCatNetwork(LongCat):
    """The same weights and config, called as ComfyUI calls its own video models."""

    def __init__(self, config: LongCatConfig, operations, dtype: torch.dtype | None = None, device=None):
        super().__init__(config, operations, optimized_attention, dtype, device, rotate_fused)
        self.dtype = dtype

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor | None = None,  # type: ignore[override]
                control=None, transformer_options: dict = {}, **conditions) -> Tensor:  # noqa: B006 - ComfyUI's manner
        """Runs every DIFFUSION_MODEL wrapper around `_forward`, whose four first arguments are positional."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, transformer_options, **conditions)

    def lay_out(self, place: Place, caches: tuple[KVCache, ...], device: torch.device, options: dict
               ) -> tuple[Tensor, Groups, tuple[Tensor, ...]]:
        """Made once in a sampling run that has a store, but for context windows at places of their own."""
        run, make = options.get(RUN), partial(super().lay_out, place, caches, device, options)
        _, times, *_ = place
        if run is None or ("context_window" in options and times[-1] >= len(times)):
            return make()
        if WINDOW in options:       # whose caches follow one another
            return run.newest(("layout", id(self), place, device), tuple(map(id, caches)),
                              lambda _: (make(), caches))[0]
        key = "layout", id(self), place, tuple(map(id, caches)), device
        return run.once(key, lambda: (make(), caches))[0]     # while they are kept, their ids are no others'

    def _forward(self, x: Tensor, timestep: Tensor, context: Tensor | None, transformer_options: dict,
                 audio: Tensor | None = None, speaker_masks: Tensor | None = None, reference: Tensor | None = None,
                 num_cond_frames: int = 0, times: Sequence[float] | None = None,
                 visibility: Mapping[tuple[int, int], float] | None = None, cache: Sequence[KVCache] = (),
                 sparse: SparseBlocks | None = None, negative: Tensor | None = None,
                 guidance: AttentionGuidance | None = None, guided: Sequence[bool] | None = None, beside: Cached = (),
                 **others) -> Tensor:
        """The velocity noise - x0 of `x` (B, C, T, h, w) in model space, float32; 0 for frames that are given.

        The first `num_cond_frames` of x are given. `reference` (B, C, r, h, w): conditioning frames in front of them, a
        span each, which the answer leaves out. `cache`: KV caches of all of these, which then are not computed. Rows of
        zeros in `context` are padding. Everything else, of the whole sequence: see LongCat.forward.
        """
        frames, given = x.shape[2], num_cond_frames
        ahead = 0 if reference is None else reference.shape[2]
        if given == frames:
            return torch.zeros_like(x, dtype=torch.float32)
        timestep = (timestep[:, None] if timestep.ndim == 1 else timestep).expand(-1, frames)[:, given:]
        times = [REFERENCE_INDEX] * ahead + list(range(frames)) if times is None else times
        clean: tuple[int, ...] = (1,) * ahead + (given,) * (given > 0)
        stand = standing(cache, times)
        if cache:
            x, clean, times = x[:, :, given:], (), times[ahead + given:]
        else:
            timestep = pad(timestep, (ahead + given, 0))
            x = x if reference is None else torch.cat([reference.to(x), x], 2)
        prediction = super().forward(
            x, timestep, context, None if context is None else (context != 0).any(-1), audio=audio,
            speaker_masks=speaker_masks, clean=clean, visibility=visibility, cache=stand, times=times, sparse=sparse,
            negative=negative, guidance=guidance, guided=guided, beside=beside, transformer_options=transformer_options)
        return pad(-prediction[:, :, given - frames:], (0, 0, 0, 0, given, 0))


class LongCatVideo(comfy.model_base.BaseModel):
    """What the sampler asks. `version`: a record of its own; the network's sizes are `.diffusion_model.config`."""

    def __init__(self, model_config: "LongCatModelConfig", device=None):
        super().__init__(model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=LongCatNetwork)
        self.diffusion_model.requires_grad_(False)
        self.version = model_config.version
        self.memory_usage_factor_conds = ("reference",)

    def extra_conds(self, **kwargs) -> dict:
        """CONDITIONING to arguments of the network. Raises ValueError where text or reference are another model's.

        `audio_windows` (1, streams, frames, window, layers, channels); without it an avatar gets unconditional audio
        (zeros). `speaker_masks` (1, K, H, W) in pixels. `reference_latents`: tensors in LATENT space, (1, C, r, h, w).
        """
        out = super().extra_conds(**kwargs)
        noise, audio = kwargs["noise"], kwargs.get("audio_windows")
        if "c_crossattn" in out:
            text = self.pad_text(out["c_crossattn"].cond)
            out["c_crossattn"] = comfy.conds.CONDCrossAttn(text.to(kwargs.get("device")))
        taken = self.diffusion_model.config.audio
        if audio is None and taken is not None:
            audio = torch.zeros(1, 1, frames_of(noise.shape[2], taken.ratio), taken.window, 1, taken.width)
        if kwargs.get("speaker_masks") is not None:
            check_masks(kwargs["speaker_masks"], noise.shape[-2] // 2, noise.shape[-1] // 2)
        reference = self.reference(kwargs.get("reference_latents") or (), noise)
        found = {"audio": audio, "speaker_masks": kwargs.get("speaker_masks"), "reference": reference}
        out |= {name: comfy.conds.CONDRegular(value.to(kwargs.get("device")))     # once, not in every step
                for name, value in found.items() if value is not None}
        if reference is not None:
            out[REFERENCE_KEY] = comfy.conds.CONDConstant(digest_tensor(reference))
        if given := count_conditioning_frames(kwargs.get("denoise_mask")):
            out["num_cond_frames"] = comfy.conds.CONDConstant(given)
        return out

    def pad_text(self, text: Tensor) -> Tensor:
        """Exactly 512 tokens, as the model was trained: padding is attended to, so their count matters."""
        width = self.diffusion_model.config.caption
        if text.shape[-1] != width:
            raise ValueError(f"prompt: got text of width {text.shape[-1]}, wanted {width}. Connect the text encoder "
                             "that belongs to the model, or a Blank Prompt to which the model is connected")
        return pad(text[:, :TEXT_TOKENS], (0, 0, 0, max(0, TEXT_TOKENS - text.shape[1])))

    def reference(self, latents: Sequence[Tensor], noise: Tensor) -> Tensor | None:
        """All reference frames in model space, (1, C, r, h, w)."""
        frames = []
        for samples in latents:
            samples = samples.unsqueeze(2) if samples.ndim == 4 else samples    # a still picture's
            if samples.shape[1] != noise.shape[1] or samples.shape[3:] != noise.shape[3:]:
                raise ValueError(f"reference_latents: got {tuple(samples.shape)}, wanted (1, {noise.shape[1]}, frames, "
                                 f"{noise.shape[3]}, {noise.shape[4]}), the size of the video: scale and crop the "
                                 "picture to it, and encode with the Wan 2.1 VAE")
            frames.append(self.process_latent_in(samples))
        return torch.cat(frames, 2) if frames else None

    def extra_conds_shapes(self, **kwargs) -> dict:
        """What the memory estimate adds to the noise."""
        elements = sum(samples.numel() for samples in kwargs.get("reference_latents") or ())
        shapes = {"reference": [1, 16, elements // 16]} if elements else {}
        return shapes | {CACHE_BYTES: [kwargs[CACHE_BYTES]]} if kwargs.get(CACHE_BYTES) else shapes

    def memory_required(self, input_shape, cond_shapes: Mapping = {}, **others) -> float:  # noqa: B006 - as ComfyUI's
        """Bytes for a batch of noise: ComfyUI's estimate, and one KV cache, whatever the batch."""
        caches = [size for size, in cond_shapes.get(CACHE_BYTES, ())]
        return super().memory_required(input_shape, cond_shapes, **others) + max(caches, default=0)

    def scale_latent_inpaint(self, latent_image: Tensor, **kwargs) -> Tensor:
        """What the noise mask keeps is clean at every step."""
        return latent_image


class LongCatModelConfig(comfy.supported_models_base.BASE):
    """ComfyUI's view of one checkpoint. `version`: its record; `operations`: comfy.ops.manual_cast or a subclass."""
    unet_extra_config: dict = {}
    latent_format = comfy.latent_formats.Wan21
    supported_inference_dtypes = [torch.bfloat16, torch.float32]

    def __init__(self, config: LongCatConfig, version: Version, operations=comfy.ops.manual_cast):
        super().__init__({"config": config})
        self.version = version
        self.custom_operations = operations     # never what ComfyUI would pick: float32 islands need casting
        self.sampling_settings = {"shift": version.shift}
        if version.own_vae:     # a preview would show them in false colours
            self.latent_format.latent_rgb_factors = self.latent_format.taesd_decoder_name = None
        self.memory_usage_factor = config.hidden / HIDDEN_PER_FACTOR

    def get_model(self, state_dict, prefix: str = "", device=None) -> LongCatVideo:
        return LongCatVideo(self, device)


class Float8Operations(comfy.ops.manual_cast):
    """Float 8 matrix multiplication, but not where float32 comes in: what is computed in float32 stays so."""

    class Linear(comfy.ops.fp8_ops.Linear):
        def forward_comfy_cast_weights(self, x: Tensor) -> Tensor:
            kind = comfy.ops.manual_cast if x.dtype == torch.float32 else comfy.ops.fp8_ops
            return kind.Linear.forward_comfy_cast_weights(self, x)


def rotate_fused(x: Tensor, rows: Tensor) -> Tensor:
    """techniques.rope.rotate, below float32 by ComfyUI's fused kernel; in float32 the same bits everywhere."""
    return rotate(x, rows) if x.dtype == torch.float32 else apply_rope1(x, rows)


def count_conditioning_frames(denoise_mask: Tensor | None) -> int:
    """How many leading latent frames of (B, C, T, h, w) are to stay as they are: their mask is 0 everywhere."""
    if denoise_mask is None:
        return 0
    touched = denoise_mask.amax((0, 1, 3, 4)) > 0
    return int((touched.cumsum(0) == 0).sum())
