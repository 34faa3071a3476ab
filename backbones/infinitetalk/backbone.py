"""InfiniteTalk and MultiTalk: ComfyUI's Wan 2.1 image-to-video with a model patch driven by speech.

Every chunk has the picture in its concat channels. The latents that it continues from stand at its head in every call,
at the chunk's own timestep, as the model was trained: the last frames encoded again, or the latents as they were
sampled. Speech is in the numbers of the whole take, for any guidance, any batch and each context window.
"""
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import Any, ClassVar

import comfy.latent_formats
import torch
from torch import Tensor

from ...techniques.audio.features import interpolate_frames, positions
from ...techniques.audio.talk_windows import MULTITALK_SLOTS, SLOTS, frame_steps, multitalk_windows
from ...techniques.colour_match import is_flat
from ...techniques.speaker_masks import token_masks
from ...techniques.timeline import Timeline, frames_of
from ..audio.speech import CORE_RATE_HZ, Speech, check_finite
from ..backbone import OWN, ChunkInputs, ChunkRequest
from ..frame_conditions import Cut
from ..sampling_run import once, say
from ..wan.base import Wan, WanI2V
from ..wan.call import WanCall
from .features import FPS, LAYERS, WIDTH
from .speech import RECIPE
from .speech_attention import SpeechAttention, speaker_places, speech_tokens

SPEECH, HELD, SPEAKERS = OWN + "speech", OWN + "held", OWN + "speakers"
PER_LATENT = Cut(2, per_latent=1, first=1, core_cuts=True)
DARK_SECONDS = 10       # so far on it is looked for a frame that shows anything
PATCH = "lodestar_speech_patch"     # under which attach.py keeps a model's speech patch


@dataclass(frozen=True, eq=False)
class SpeechPatch:
    """`network`: of core's MODEL_PATCH, with audio_proj and blocks. `scale`: of the audio cross-attention. `vision`: a
    CLIP_VISION. `video`: of which each chunk shows the frame at its beginning, as pipelines' FrameSource gives it."""
    network: torch.nn.Module
    scale: float = 1.0
    vision: Any = None
    video: Any = None


@dataclass(frozen=True)
class InfiniteTalk(WanI2V):
    memory: ClassVar[str] = "joint"
    supported: ClassVar[str] = "InfiniteTalk and MultiTalk on Wan 2.1 I2V"
    encoder: ClassVar[str] = ("Audio Features with chinese-wav2vec2-base, its trained_as set to InfiniteTalk, or all "
                              "of its layers")
    recipe: ClassVar = RECIPE
    frame_conditions: ClassVar = {**Wan.frame_conditions, SPEECH: PER_LATENT, HELD: PER_LATENT}
    name: str = "InfiniteTalk"
    fps: int = FPS
    overlap_frames: int = 9
    audio_shape: tuple[int, int] | None = (LAYERS, WIDTH)
    audio_condition: str | None = SPEECH
    handover: str = "re-encode"
    patch: SpeechPatch | None = None

    @classmethod
    def of(cls, model) -> "InfiniteTalk | None":
        """The backbone of a MODEL that carries a speech patch, None for any other."""
        patch = model.attachments.get(PATCH)
        return cls(patch=patch) if patch is not None and isinstance(Wan.of(model), WanI2V) else None

    def check_video_reference(self, audio: bool) -> None:
        if audio:
            raise ValueError(f"audio_features: {self.name}'s audio attention is of the chunk's own tokens, so what is "
                             "said in the video has no way to its frames. Disconnect it")

    def memory_in_channels(self) -> bool:
        return False

    @property
    def layers_taken(self) -> tuple[int, ...]:
        return LAYERS, LAYERS + 1

    def check_speech(self, speech: Speech, clock: Timeline) -> None:
        super().check_speech(speech, clock)
        if clock.fps != self.fps:
            raise ValueError(f"plan: {float(clock.fps):g} fps, but {self.name} has audio for {self.fps} a second. Set "
                             f"fps of Plan Take to {self.fps}")
        if speech.rate_hz != CORE_RATE_HZ and (speech.rate_hz != FPS or speech.family not in ("", RECIPE.name)):
            raise ValueError(f"audio_features: got {speech.family or 'features'} at {speech.rate_hz:g} Hz, made for "
                             f"another model than {self.name}. Use {self.encoder}")
        if len(speech.streams) > 1 and speech.speakers is None:
            raise ValueError("audio_features: got several audio streams and no masks of who speaks where. Use Two "
                             f"Speakers with version {RECIPE.name}")
        if len(speech.streams) > 2 or (speech.speakers is not None and speech.speakers.shape[1] > 3):
            raise ValueError(f"audio_features: {len(speech.streams)} audio streams, but {self.name} has two speakers "
                             "and nobody else. Empty the others of Two Speakers")

    def audio_for(self, speech: Speech, clock: Timeline, first_latent: int, latents: int) -> Tensor:
        """(1, speakers, latents, 8, 12, C); the first latent has 5 places. A chunk that reaches the end of the speech
        has it mirrored behind its end."""
        first, frames = first_latent * self.temporal_ratio, frames_of(latents, self.temporal_ratio)
        tracks = [self.windows(stream, speech.rate_hz, first, frames) for stream in speech.streams]
        speech.release()
        return check_finite(torch.stack(tracks)[None].float())

    @staticmethod
    def windows(stream, rate_hz: float, first_frame: int, frames: int) -> Tensor:
        """(latents, 8, 12, C) of one audio stream, of which only the steps in it are read."""
        rows = stream[0].shape[1]
        steps = rows if rate_hz == FPS else int(rows / CORE_RATE_HZ * FPS)
        around = frame_steps(first_frame, frames, steps, closes=first_frame + frames >= steps)
        low, high = int(around.min()), int(around.max()) + 1
        below, share = (part[low:high] for part in positions(rows, steps))
        start, end = int(below[0]), min(int(below[-1]) + 2, rows)
        layers = torch.stack([layer[0, start:end] for layer in stream[-LAYERS:]], 1)     # (rows, 12, C)
        first, later = multitalk_windows(interpolate_frames(layers, below - start, share), around - low)
        empty = first.new_zeros(MULTITALK_SLOTS - SLOTS, *first.shape[1:])
        return torch.cat([torch.cat([first, empty])[None], later])

    def picture_at(self, picture: Tensor | None, chunk: int, seconds: Fraction) -> Tensor | None:
        """In every chunk: the take's picture, or the video's at that time, its last one behind its end. Of a video that
        is black there (a fade-in, a cut) it is the next that shows anything."""
        if self.patch is None or self.patch.video is None:
            return picture
        video = self.patch.video
        last = max(video.seconds - 1 / video.fps, Fraction(0))
        first = min(seconds, last)
        times = [first + frame / video.fps for frame in range(int(min(last - first, DARK_SECONDS) * video.fps) + 1)]
        frames = video.at(times)
        here = next(frames)
        return next((frame for frame in chain([here], frames) if not is_flat(frame)), here)[None]

    def vision_encoder(self, base) -> tuple[int, str] | None:
        if self.patch is not None and self.patch.vision is not None:
            raise ValueError(f"clip_vision: the {self.name} node has one already, which sees each chunk's own picture. "
                             "Disconnect one of the two")
        return super().vision_encoder(base)

    def picture_conditions(self, picture: Tensor) -> dict[str, Any]:
        """What CLIP vision sees of the whole picture, squeezed into its square, as the model was trained."""
        if self.patch is None or self.patch.vision is None:
            return {}
        return {"clip_vision_output": self.patch.vision.encode_image(picture, crop=False)}

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        if request.reference is None or request.concat_latent is None:
            raise ValueError(f"reference: {self.name} starts from a picture. Connect one")
        known = request.reference if request.context is None else request.context
        samples, mask = request.open_with(known, comfy.latent_formats.Wan21())
        assert mask is not None
        picture_mask = torch.ones_like(mask)
        picture_mask[:, :, :1] = 0
        held = torch.cat([1 - mask, samples * (1 - mask)], 1)
        concat = request.concat_latent[:, :, :request.latents].clone()
        if request.padded:      # then the model is to go on from what was there, not from the picture
            concat[:, :, :known.shape[2]] = known
        speech, uncond = self.speech_conditions(request)
        conditions = {"concat_latent_image": concat, "concat_mask": picture_mask, HELD: held,
                      **request.picture_conditions, **speech}
        return ChunkInputs(samples, mask, conditions, uncond)

    def stream_inputs(self, request: ChunkRequest) -> ChunkInputs:
        inputs = super().stream_inputs(request)
        conditions, uncond = self.speech_conditions(request)
        return replace(inputs, conditions={**inputs.conditions, **conditions}, uncond=uncond)

    @staticmethod
    def speech_conditions(request: ChunkRequest) -> tuple[dict, dict]:
        """What every condition, and what every unconditional one, is given of the speech."""
        if request.audio is None:
            return {}, {}
        conditions, uncond = {SPEECH: request.audio}, {SPEECH: torch.zeros_like(request.audio[:, :1])}
        if request.audio.shape[1] > 1:
            assert request.speaker_masks is not None
            rows, columns = (size // 2 for size in request.latent_shape[1:])
            tokens = token_masks((request.speaker_masks > 0.5).float(), rows, columns)
            conditions[SPEAKERS] = tokens[:, :, None]
        return conditions, uncond

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> WanCall:
        call = super().prepare(executor, args, kwargs, techniques, position, process_in)
        if call.clip_fea is None:
            say(f"{self.name}: no CLIP vision of the picture, with which it was trained. Connect clip_vision to the "
                "InfiniteTalk node, or CLIP Vision Encode to the prompts", call.transformer_options)
        extra = dict(call.extra)
        windows, held, speakers = (extra.pop(name, None) for name in (SPEECH, HELD, SPEAKERS))
        call = call.change(extra=extra)
        if held is not None:
            latents = process_in(held[:, 1:].float()).to(call.x)
            opened = torch.where(held[:, :1] > 0.5, latents, call.x[:, :latents.shape[1]])
            call = call.change(x=torch.cat([opened, call.x[:, latents.shape[1]:]], 1))
        return call if windows is None else self.with_speech(call, windows, speakers)

    def with_speech(self, call: WanCall, windows: Tensor, speakers: Tensor | None) -> WanCall:
        assert self.patch is not None
        network, two = self.patch.network, windows.shape[1] > 1
        tokens = speech_tokens(network.audio_proj, windows).to(call.x)
        attention = SpeechAttention(network.blocks, tokens, self.patch.scale)
        if two and speakers is not None:
            places = once(call.transformer_options, ("speaker places", tokens.shape[2], tokens.device),
                          lambda: speaker_places(network.blocks, tokens))
            attention = replace(attention, masks=speakers[0, :, 0], places=places)
        patches = dict(call.transformer_options.get("patches", {}))
        patches["attn2_patch"] = [*patches.get("attn2_patch", ()),
                                  torch.compiler.disable(attention.add_speech)]     # a compiled block keeps it
        if attention.masks is not None:
            patches["attn1_patch"] = [*patches.get("attn1_patch", ()), attention.find_speakers]
        return call.change(transformer_options={**call.transformer_options, "patches": patches})
