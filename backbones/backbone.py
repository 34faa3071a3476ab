"""What the rest of the pack asks of a model family: how to call it with a layout, and what one chunk needs.

A backbone turns a Layout plus conditions into latents on one family; it keeps no state between calls.
"""
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from comfy.latent_formats import LatentFormat
from torch import Tensor

from ..techniques.layout import Layout, Span
from ..techniques.persistent_latents import Memory
from ..techniques.protocols import ChunkFrames, Past
from ..techniques.technique import ChunkPosition, Technique, lay_out, restricts_visibility
from ..techniques.timeline import Timeline
from .audio.recipes import Recipe
from .audio.speech import Speech
from .frame_conditions import WINDOW, Cut, window_of
from .images import fit_picture
from .sampling_run import say
from .written_memory import MEMORY

if TYPE_CHECKING:
    from .speech_guider import SpeechGuider

OWN = "lodestar_"   # how names of conditions begin that are the pack's own
CACHE_BYTES = "lodestar_cache_bytes"   # among a condition's values: VRAM that its KV cache takes (attach.py)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ChunkRequest:
    """What the take wants of one chunk.

    `latents`: of the whole chunk. `context`: (1, C, k, h, w) passed on, None for the first chunk. `reference`: (1, C,
    1, h, w). `audio`: from the backbone's `audio_for`, `concat_latent` and `picture_conditions`: from its methods of
    those names. `padded`: whether the picture stands in the concat latent where nothing is known yet.
    `speaker_masks`: (1, K, H, W). `context_frames`: (T, H, W, 3) that the context was encoded from, None where latents
    passed. `driving`: of a driving video by name (pose, face, background, mask), a frame for each of the chunk's, its
    first latent counted as one frame. `encode`: (T, H, W, 3) -> (1, C, t, h, w), for what is each chunk's own.
    `given`: names of the values that the user's conditioning has. `fps`: the take's, 0 for the family's own.
    `re_encoded`: whether the context begins with a frame alone, as a VAE encodes frames, and no latents passed.
    `seconds_ahead`: how much of `audio` lies behind the chunk.
    `encode_sound`: (the chunk's `audio`, begin and length in seconds) -> latents, for families whose audio is sound.
    `given`: names of the values that the user's conditioning has. `persistent`: what a family is given in its channels
    in place of a context (`memory_in_channels`).
    """
    latents: int
    latent_shape: tuple[int, int, int]   # channels, height, width
    context: Tensor | None = None
    reference: Tensor | None = None
    audio: Tensor | None = None
    concat_latent: Tensor | None = None
    speaker_masks: Tensor | None = None
    picture_conditions: Mapping[str, Any] = field(default_factory=dict)
    padded: bool = False
    context_frames: Tensor | None = None
    driving: Mapping[str, ChunkFrames] = field(default_factory=dict)
    encode: Callable[[Tensor], Tensor] | None = None
    given: frozenset[str] = frozenset()
    fps: Fraction = Fraction(0)
    re_encoded: bool = False
    seconds_ahead: Fraction = Fraction(0)
    encode_sound: Callable[[Tensor, Fraction, Fraction], Tensor] | None = None
    persistent: Memory | None = None

    def open_with(self, known: Tensor | None, latent_format: LatentFormat) -> tuple[Tensor, Tensor | None]:
        """The chunk's samples (1, C, latents, h, w) and noise mask: `known` (1, C, k, h, w) opens it and is held, what
        follows is zeros in model space. Plain zeros and no mask where nothing is known."""
        channels, height, width = self.latent_shape
        samples = torch.zeros(1, channels, self.latents, height, width)
        if known is None:
            return samples, None
        samples = latent_format.process_out(samples)
        samples[:, :, :known.shape[2]] = known
        mask = torch.ones_like(samples[:, :1])
        mask[:, :, :known.shape[2]] = 0
        return samples, mask


@dataclass(frozen=True, eq=False)
class ChunkInputs:
    """What the sampler gets: `samples` (1, C, t, h, w), and values to set in every (`uncond`: negative) condition.

    Of a family that makes sound as well, `samples` and `noise_mask` are ComfyUI's NestedTensor: (picture, sound).
    """
    samples: Tensor
    noise_mask: Tensor | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    uncond: dict[str, Any] = field(default_factory=dict)
    context: Tensor | None = None        # clean tokens that the patched model lays out itself
    before: int = 0                      # latents that are sampled along in front of the chunk's
    behind: int = 0                      # and behind them
    text_for: str = ""                   # under which name every condition has the positive prompt's text as well

    def with_text(self, text: Tensor) -> dict[str, Any]:
        """The conditions, with `text` (1, tokens, C) where the family wants it."""
        return {**self.conditions, self.text_for: text} if self.text_for else self.conditions

    @property
    def others_note(self) -> str:
        """A line for who samples and decodes the chunk with other nodes; Long Take leaves the others out."""
        if not self.before + self.behind:
            return ""
        sides = [f"the {side} {count}" for side, count in (("first", self.before), ("last", self.behind)) if count]
        return f"{' and '.join(sides)} of the latents are not the clip's: cut them off before VAE Decode, with " \
               "core's LatentCut along t"

    def new_latents(self, sampled: Tensor, repeated: int) -> Tensor:
        """What was sampled (1, C, t, h, w) without the latents that repeat the last chunk's, where it has them."""
        sampled = pictures_of(sampled)
        sampled = sampled[:, :, self.before:sampled.shape[2] - self.behind]
        return sampled if self.context is not None else sampled[:, :, repeated:]


class Backbone(ABC):
    """A new family is a folder with one of these, a line in FAMILIES, and methods where it differs from the defaults.

    `supported`, `encoder`: for refusals, what of the family is supported and what makes its audio features.
    `recipe`: its way to audio features, for Audio Features' and Two Speakers' choice.
    `frame_conditions`: what the model is given for each latent frame, by name. Values of CONDITIONING whose names begin
    with OWN reach the model though core does not know them.
    """
    supported: ClassVar[str]
    frame_conditions: ClassVar[Mapping[str, Cut]] = {}
    memory: ClassVar[str] = ""           # of a family whose latents may each have their own level, how clean ones are
    #                                      seen: "joint", they ride in every call, "closed", they see only one another,
    #                                      "written", a forward of them at level 0 leaves keys and values (students)
    encoder: ClassVar[str] = ""
    recipe: ClassVar[Recipe | None] = None
    name: str
    fps: int                             # what the family was trained at
    chunk_frames: int                    # a good chunk length, pixel frames
    overlap_frames: int                  # a good overlap inside the chunk, pixel frames; 0 when context is outside
    grid: int                            # width and height must be multiples of this
    audio_shape: tuple[int, int] | None  # (layers, width) of the speech features it takes
    audio_condition: str | None          # under which name CONDITIONING holds its speech; zeros there mean none
    size: tuple[int, int] = (832, 480)   # width and height of a good picture, landscape
    one_size: bool = False               # whether it knows no other, nor other proportions
    temporal_ratio: int = 4
    handover: str = "stitch"             # how the family continues a chunk, where the user does not say
    boundary: float | None = None        # of a pair: the sigma from which on downwards the low-noise model is asked

    @classmethod
    @abstractmethod
    def of(cls, model) -> "Backbone | None":
        """The backbone of a ComfyUI MODEL; None where it is another family's."""

    def latent_channels(self, base) -> int:
        """Of such a model's video latents; `base`: a comfy.model_base object."""
        return base.latent_format.latent_channels

    def timeline(self, fps: Fraction) -> Timeline:
        """The clock of its latents."""
        return Timeline(fps, self.temporal_ratio)

    def latents_ahead(self, frames: Fraction) -> float:
        """An anchor's distance in pixel frames as latent frames: floor(D / r) (Seo et al. 2025, section 3.3)."""
        return int(frames) // self.temporal_ratio

    @property
    def layers_taken(self) -> tuple[int, ...]:
        """How many layers speech features may have."""
        return self.audio_shape[:1] if self.audio_shape else ()

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent; a token is two latents wide."""
        return self.grid // 2

    def chunk_frames_at(self, width: int, height: int) -> int:
        """A good chunk length at this size, pixel frames."""
        return self.chunk_frames

    def nearest_bucket(self, proportion: float, pixels: int) -> tuple[int, int] | None:
        """Of the sizes that the family was trained at, (width, height), the one nearest to a height / width and about
        so many pixels; None for a family that has no list of them."""
        return None

    def refined_size(self, proportion: float) -> tuple[int, int] | None:
        """(width, height) that a finished video of this height / width is refined to; None where the family refines
        none."""
        return None

    def text_width(self, base) -> int:
        """The width of the encoded prompts that a comfy.model_base object of this family reads."""
        return base.diffusion_model.text_dim

    def text_widths(self, base) -> tuple[int, ...]:
        """Every width of encoded prompts that it reads."""
        return (self.text_width(base),)

    def vision_encoder(self, base) -> tuple[int, str] | None:
        """The width of the CLIP vision features that such a model reads of its picture, and the file that makes them;
        None where it reads none. Raises ValueError where something else makes them already."""
        reader = getattr(base.diffusion_model, "img_emb", None)
        return None if reader is None else (reader.proj[0].normalized_shape[0], "clip_vision_h")

    def prompt_values(self, base) -> dict[str, Any]:
        """What such a model reads of a prompt beside its tokens, as a prompt of zeros has it."""
        return {}

    def speech_guider(self) -> "type[SpeechGuider]":
        """The class of the GUIDER that guides text, speech and picture as the family was trained."""
        from .speech_guider import SpeechGuider  # which finds a model's backbone
        return SpeechGuider

    def fps_note(self, fps: Fraction) -> str:
        """A line for the plan's summary where the take runs at another rate than the family was trained at."""
        return "" if fps == self.fps else (f"{self.name} was trained at {self.fps} fps; at {float(fps):g} fps lips "
                                           f"and motion may run at the wrong speed")

    def context_latents(self, overlap: int) -> int:
        """How many latents of the take so far the next chunk wants handed over."""
        return overlap

    def opening_frames(self) -> int:
        """How many decoded frames of the take so far it wants beside those latents."""
        return 0

    def check_handover(self, handover: Technique) -> None:
        """Raises ValueError for a way to continue a chunk that the family cannot have."""
        return None

    def reference_latent(self, picture: Tensor | None, past: Past, chunk: int) -> Tensor | None:
        """What says who the person is in chunk number `chunk` (1, C, 1, h, w), where the take's is `picture`."""
        return picture

    def check_silence(self) -> None:
        """Raises ValueError where the family cannot do without speech. Asked only where `audio_shape` is."""
        raise ValueError(f"audio_features: {self.name} is driven by speech. Connect Audio Features")

    def check_speech(self, speech: Speech, clock: Timeline) -> None:
        """Raises ValueError for audio features that this family cannot take. Asked only where `audio_shape` is."""
        assert self.audio_shape is not None
        layers, width = self.audio_shape
        if speech.layers not in self.layers_taken or speech.width != width:
            raise ValueError(f"audio_features: got {speech.layers} layers of width {speech.width}"
                             f"{f' ({speech.family})' if speech.family else ''}, wanted {layers} of {width} for "
                             f"{self.name}. Use {self.encoder}")

    def check_sampler(self, sampler) -> None:
        """Raises ValueError for a SAMPLER that cannot sample this family."""
        return None

    def check_rolling(self) -> None:
        """Raises ValueError where a rolling window cannot sample this family, for another reason than its levels."""
        return None

    def check_stream(self) -> None:
        """Raises ValueError where no take of this family can be a stream: what it is given of its picture belongs to a
        chunk."""
        return None

    def check_video_reference(self, audio: bool) -> None:
        """Raises ValueError where no video of the person can stand beside the chunk, or, with `audio`, where what is
        said in it has no way to its frames."""
        raise ValueError(f"model: {self.name} cannot attend to a video of the person. Use Lookahead Anchor with a "
                         "picture")

    def check_background(self) -> None:
        """Raises ValueError where no picture of a scene can stand beside the chunk: it stands as a video of the person
        does."""
        try:
            self.check_video_reference(audio=False)
        except ValueError as error:
            raise ValueError(f"model: {self.name} attends to no picture of a scene. Begin the take with a picture of "
                             "the person in it") from error

    def memory_in_channels(self) -> bool:
        """Whether the pictures and latents of Persistent Latents stand in the model's channels for known frames; else
        the pictures are clean frames beside the chunk. Raises ValueError where the model has room for neither."""
        return False

    def repeated_frames(self) -> int:
        """With Persistent Latents: how many pixel frames a clip makes again of the one before, where each clip is
        decoded on its own; 0 where a take is one stream of latents."""
        return 0

    def audio_for(self, speech: Speech, clock: Timeline, first_latent: int, latents: int) -> Tensor:
        """The audio features of one chunk: here (layers, frames, C), one per pixel frame, 4 per latent."""
        return speech.frame_features(clock, *clock.even_frames(first_latent, latents))

    def extra_latents(self, model, noise_shape: tuple[int, ...], techniques: tuple[Technique, ...],
                      position: ChunkPosition) -> int:
        """Latent frames that the techniques add to a sampler's latent of `noise_shape`, for ComfyUI's VRAM estimate;
        numbers, where the sampler packs picture and sound into one row (B, 1, N)."""
        layout = Layout.of_chunk(noise_shape[2])
        if position.reference is None:   # then a technique that needs a picture takes the model's own
            layout = layout.append(Span("reference", (noise_shape[2],)))
        own = sum(len(span.times) for span in layout.spans)
        for technique in techniques:
            layout = technique.layout(layout, position)
        return sum(len(span.times) for span in layout.spans) - own

    def cache_bytes(self, model, noise_shape: tuple[int, ...], techniques: tuple[Technique, ...],
                    position: ChunkPosition) -> int:
        """VRAM that keys and values kept for a sampling run take, however many guidance branches it has."""
        return 0

    def check_driving(self, names: Collection[str]) -> None:
        """Raises ValueError where the model cannot be driven by what a driving video holds; `names`: of its parts,
        none where no driving video came."""
        if names:
            raise ValueError(f"driving: {self.name} follows no driving video. Use Wan-Animate, or disconnect it")

    @abstractmethod
    def prepare(self, executor, args, kwargs, techniques: tuple[Technique, ...], position: ChunkPosition,
                process_in: Callable[[Tensor], Tensor]):
        """A DIFFUSION_MODEL wrapper's call with the techniques applied: `.arguments`, `.extra` and `.in_place()`."""

    def trim(self, made, x):
        """What the model made of a call, without what `prepare` added behind the sampler's own `x`."""
        return made[:, :, :x.shape[2]]

    def check_options(self, base, model_options: Mapping) -> None:
        """Raises ValueError for what other nodes have put on a model that ComfyUI cannot run with it."""
        return None

    def lay_out_conditions(self, entry: dict, techniques: tuple[Technique, ...], position: ChunkPosition,
                           shape: tuple[int, ...]) -> dict:
        """A condition (as ComfyUI converts CONDITIONING) of a run over video latents of `shape` (B, C, T, h, w), for
        families whose clean frames stand in it and not in the call."""
        return entry

    def fit_pictures(self, pictures: Tensor, width: int, height: int) -> Tensor:
        """The user's pictures (n, H, W, C) as the family takes them, (1, height, width, 3): here the first, cropped."""
        return fit_picture(pictures[:1], width, height)

    def picture_at(self, picture: Tensor | None, chunk: int, seconds: Fraction) -> Tensor | None:
        """The picture (1, H, W, C) that a chunk shows the model as its first frame, of any size, where the take has
        `picture`: here in the first chunk alone. `chunk`: its number; `seconds`: where it begins, its overlap
        included. For chunk 0 it is the take's own picture."""
        return None if chunk else picture

    def first_picture(self, picture: Tensor | None) -> Tensor | None:
        """The take's own picture: what came, or one that the model brings."""
        return self.picture_at(picture, 0, Fraction(0))

    def picture_conditions(self, picture: Tensor) -> Mapping[str, Any]:
        """What is set in every condition of a chunk that shows `picture` (1, H, W, 3)."""
        return {}

    def concat_latent(self, encode: Callable[[Tensor], Tensor], picture: Tensor | None, latents: int, height: int,
                      width: int, padding: Tensor | None = None) -> Tensor | None:
        """What a window looks like to the VAE before anything is known but its first `picture` (1, H, W, 3), for
        models that take known frames as channels; asked once for each picture. `padding` (1, H, W, 3) stands where
        nothing is known. `encode`: (T, H, W, 3) -> (1, C, t, h, w)."""
        return None

    def stream_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """As `chunk_inputs`, for a run of a stream's windows: its first latent is before all of them, its picture
        stands beside them, and what is finished opens each. Samples and noise mask are not looked at."""
        return self.chunk_inputs(request)

    @abstractmethod
    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """What the sampler is given for one chunk, so that the family sees its context, picture and speech."""


def pictures_of(latents: Any) -> Tensor:
    """The video of what a sampler gave: of picture and sound together the first."""
    return latents.unbind()[0] if getattr(latents, "is_nested", False) else latents


def lay_out_call(own: Layout, techniques: tuple[Technique, ...], position: ChunkPosition, transformer_options: dict
                 ) -> tuple[Layout, dict[tuple[int, int], float]]:
    """As techniques.technique.lay_out, at the place of the rolling or context window where the call is of one; a
    technique that changes nothing in this layout says so once a run."""
    window, memory = window_of(transformer_options), transformer_options.get(MEMORY)
    if window is not None and WINDOW in transformer_options:
        first = position.first_latent + window.latents[0] - (memory.first_time if memory else 0)
        position = replace(position, first_latent=first, rolls=True, remembers=memory is not None)
    elif window is not None:
        position = replace(position, window=window.latents, whole=window.total)
    layout, visibility = lay_out(own, techniques, position)
    for technique in techniques:
        notice = technique.notice(layout, position)
        if notice is not None:
            say(notice, transformer_options)
    return layout, visibility


def needs_layout(own: Layout, layout: Layout, techniques: tuple[Technique, ...], dtype: torch.dtype,
                 transformer_options: Mapping) -> bool:
    """Whether a call must be laid out by us: a technique changes what is in it or sees what, or ComfyUI would round its
    positions, which it counts in the model's dtype (in bf16 from 256 on). Without techniques it never is."""
    if layout is not own or restricts_visibility(techniques):
        return True
    farthest = max(time for span in own.spans for time in span.times)
    rounds = torch.finfo(dtype).bits < 32 and ("rope_options" in transformer_options    # ScaleROPE's are no integers
                                               or farthest > 2 / torch.finfo(dtype).eps)
    return bool(techniques) and rounds
