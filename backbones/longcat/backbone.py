"""LongCat-Video and LongCat-Video-Avatar as a backbone: how a layout, a chunk and speech reach our model.

Conditioning frames open the sequence: reference and anchors, each seeing itself alone, then the context. With a
conditioning cache their keys and values are computed once in a sampling run.
"""
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar

import comfy.latent_formats
import torch
from torch import Tensor

from ...networks.longcat.buckets import REFINED, nearest, nearest_trained
from ...networks.longcat.call import Cached
from ...networks.longcat.sequence import in_order, own_layout
from ...networks.longcat.versions import REFERENCE_INDEX
from ...techniques.kv_cache import KVCache
from ...techniques.layout import Layout
from ...techniques.protocols import Past
from ...techniques.technique import (
    Technique,
    find_conditioning_cache,
    find_negative_text,
    find_sparse_attention,
    restricts_visibility,
)
from ...techniques.temporal_anchor import find_temporal_anchor
from ...techniques.timeline import frames_of
from ..audio.speech import Speech
from ..backbone import Backbone, ChunkInputs, ChunkRequest, lay_out_call
from ..frame_conditions import WINDOW, Cut, window_of
from ..ram_blocks import RamBlocks
from ..reference_pass import Beside, options_alone, take_out_closed
from ..sampling_run import RUN, once
from ..span_latents import latents_of
from ..speech_guider import PROMPTED
from .model import REFERENCE_KEY, LongCatVideo
from .speech import encode_streams
from .video_reference import video_keys

CONTEXT_LATENTS = 4
logger = logging.getLogger("lodestar")


@dataclass(frozen=True, eq=False)
class LongCatCall:
    """`x`: (B, C, T, h, w) in model space, its first `num_cond_frames` given. `extra`: the model's other conditions."""
    executor: Any
    x: Tensor
    timestep: Tensor
    context: Tensor
    transformer_options: dict
    extra: dict[str, Any]

    @property
    def arguments(self) -> tuple:
        return self.x, self.timestep, self.context, self.transformer_options

    @property
    def num_cond_frames(self) -> int:
        return self.extra.get("num_cond_frames", 0)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        yield    # nothing stands in for anything: the model takes its layout as arguments

    def with_extra(self, **extra) -> "LongCatCall":
        return replace(self, extra={**self.extra, **extra})


@dataclass(frozen=True)
class LongCatBackbone(Backbone):
    supported: ClassVar[str] = "LongCat-Video, LongCat-Video-Avatar 1.0 and 1.5"
    memory: ClassVar[str] = "closed"
    frame_conditions: ClassVar = {"audio": Cut(2, per_latent=4, first=1)}
    encoder: ClassVar[str] = "LongCat Speech with chinese-wav2vec2-base for 1.0, whisper-large-v3 for 1.5"
    name: str
    fps: int
    layers: int
    rate_hz: int
    chunk_frames: int
    overlap_frames: int
    grid: int
    audio_shape: tuple[int, int] | None
    audio_condition: str | None
    handover: str
    size: tuple[int, int]
    one_size: bool

    @classmethod
    def of(cls, model) -> "LongCatBackbone | None":
        base = model.model
        if not isinstance(base, LongCatVideo):
            return None
        version, audio = base.version, base.diffusion_model.config.audio
        facts = {field.name: getattr(version, field.name) for field in fields(cls) if hasattr(version, field.name)}
        if audio is None:
            return cls(**facts, audio_shape=None, audio_condition=None)
        return cls(**facts, audio_shape=(version.layers, audio.width // version.layers),
                   audio_condition="audio_windows")

    def reference_latent(self, picture: Tensor | None, past: Past, chunk: int) -> Tensor | None:
        """Of an avatar without a picture it is the first latent of the take."""
        return past.first_latents(1) if picture is None and chunk and self.audio_shape else picture

    def nearest_bucket(self, proportion: float, pixels: int) -> tuple[int, int] | None:
        return None if self.one_size else nearest_trained(proportion, pixels)

    def refined_size(self, proportion: float) -> tuple[int, int] | None:
        return nearest(REFINED, proportion) if self.audio_shape is None else None

    def text_width(self, base) -> int:
        return base.diffusion_model.config.caption

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> LongCatCall:
        x, timestep, context, options = args
        pictures = kwargs.pop(REFERENCE_KEY, None)
        in_run = pictures is not None or kwargs.get("reference") is None
        call = in_window(LongCatCall(executor, x, timestep, context, options, kwargs))
        own = self.own_layout(call)
        layout, visibility = lay_out_call(own, techniques, position, call.transformer_options)
        layout, visibility, beside = take_out_closed(layout, visibility, techniques)
        if layout is not own or restricts_visibility(techniques):
            call = with_layout(call, layout, visibility, process_in)
        if (sparse := find_sparse_attention(techniques)) is not None:
            call = call.with_extra(sparse=sparse)
        if (negative := find_negative_text(techniques)) is not None and any(rows := prompted_rows(options, len(x))):
            call = call.with_extra(negative=on_device(negative[0], x, options), guidance=negative[1], guided=rows)
        offload = find_conditioning_cache(techniques)
        if offload is None and WINDOW in options:
            offload = find_temporal_anchor(techniques).offload
        if offload is not None and in_run:
            call = with_cache(call, offload, pictures)
        return with_keys_beside(call, beside, techniques, self.name, process_in) if beside else call

    def check_video_reference(self, audio: bool) -> None:
        if audio and self.audio_shape is None:
            raise ValueError(f"audio_features: {self.name} has no audio attention, so what is said in the video has no "
                             "way to its frames. Disconnect it, or use LongCat-Video-Avatar")

    def cache_bytes(self, model, noise_shape, techniques, position) -> int:
        """For reference, anchors and context; as much in a chunk that has none, or ComfyUI would move weights between
        the first chunk and the second."""
        offload, anchor = find_conditioning_cache(techniques), find_temporal_anchor(techniques)
        if (offload or (position.call_latents and anchor.offload)) != "VRAM":
            return 0
        context = CONTEXT_LATENTS if position.context is None else max(CONTEXT_LATENTS, position.context.shape[2])
        if position.call_latents:
            context = anchor.latents
        frames = 1 + context + self.extra_latents(model, noise_shape, techniques, position)
        config, tokens = model.diffusion_model.config, noise_shape[3] * noise_shape[4] // 4
        computed = model.manual_cast_dtype or model.get_dtype()     # whatever the weights are kept in
        return frames * 2 * config.depth * config.hidden * tokens * computed.itemsize

    @staticmethod
    def own_layout(call: LongCatCall) -> Layout:
        """The reference where upstream puts it, the conditioning frames, the noise."""
        reference = call.extra.get("reference")
        references = 0 if reference is None else reference.shape[2]
        return own_layout(call.x.shape[2], call.num_cond_frames, references, REFERENCE_INDEX)

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """Context, or at the start of an image-driven take the picture, opens the latent and is masked out."""
        given = request.context if request.context is not None else request.reference
        samples, mask = request.open_with(given, comfy.latent_formats.Wan21())
        conditions, uncond = {}, {}
        if request.context is not None and request.reference is not None and self.audio_shape:
            conditions["reference_latents"] = [request.reference]
        if request.audio is not None:
            frames = frames_of(request.latents, self.temporal_ratio)
            conditions["audio_windows"] = request.audio if given is None else request.audio[:, :, -frames:]
            uncond["audio_windows"] = torch.zeros_like(conditions["audio_windows"])
            if request.speaker_masks is not None:
                if given is None:
                    raise ValueError("reference: several speakers need a picture, and none came. Connect "
                                     "the one that the masks or boxes were made for to Long Take")
                conditions["speaker_masks"] = request.speaker_masks
        return ChunkInputs(samples, noise_mask=mask, conditions=conditions, uncond=uncond)

    def encode_speech(self, audio_encoder, speech: Tensor) -> dict:
        return encode_streams(audio_encoder, [speech])

    def audio_for(self, speech: Speech, clock, first_latent: int, latents: int) -> Tensor:
        """(1, streams, frames, slots, layers, C) from the latent before the chunk on; of the first of all latents there
        is but one frame, its last."""
        before = min(max(first_latent, 0), 1)
        frames = clock.frames_for_latents(before + latents)
        return speech.audio_slots(clock.last_frame(first_latent - before), frames, self.rate_hz // self.fps)

    def check_speech(self, speech: Speech, clock) -> None:
        super().check_speech(speech, clock)
        if (clock.fps, speech.rate_hz) != (self.fps, self.rate_hz):
            raise ValueError(f"plan: got {float(clock.fps):g} fps and speech features at {speech.rate_hz:g} Hz, but "
                             f"{self.name} was trained at {self.fps} fps with {self.rate_hz} Hz. Set fps of "
                             f"Plan Take to 0, the model's own, and use LongCat Speech")
        if len(speech.streams) > 1 and speech.speakers is None:
            raise ValueError(f"audio_features: got {len(speech.streams)} audio streams and no masks of their speakers. "
                             "Use Two Speakers")


def on_device(text: Tensor, x: Tensor, options: dict) -> Tensor:
    """A technique's text in the dtype and on the device of `x`, brought there once in a sampling run."""
    return once(options, ("text", id(text), x.dtype, x.device), lambda: (text, text.to(x)))[1]   # kept, so is its id


def prompted_rows(options: dict, rows: int) -> tuple[bool, ...]:
    """Of each row of the batch whether it has the prompt, which alone is guided away from a negative one: under CFG the
    conditional prediction."""
    kinds = () if options.get(PROMPTED) else options.get("cond_or_uncond") or ()
    return tuple(kind == 0 for kind in kinds for _ in range(rows // len(kinds))) or (True,) * rows


def in_window(call: LongCatCall) -> LongCatCall:
    """The call with the conditioning frames of its own window, where a node samples in windows."""
    window = window_of(call.transformer_options)
    if window is None:
        return call
    if window.finished:
        return call.with_extra(num_cond_frames=window.finished)
    given = (place for place, frame in enumerate(window.latents) if frame >= call.num_cond_frames)
    return call.with_extra(num_cond_frames=next(given, len(window.latents)))


def with_layout(call: LongCatCall, layout: Layout, visibility: dict[tuple[int, int], float],
                process_in: Callable[[Tensor], Tensor]) -> LongCatCall:
    """The call with its frames in the network's order."""
    pictures, times, visibility = in_order(layout, visibility)
    parts = [call.extra["reference"] if span.latents is None else
             latents_of(span, call.x, call.x.shape[1], process_in, call.transformer_options) for span in pictures]
    return call.with_extra(reference=torch.cat(parts, 2) if parts else None, times=times, visibility=visibility)


def with_cache(call: LongCatCall, offload: str, pictures: Hashable) -> LongCatCall:
    """The call with the KV caches of its conditioning frames, from this sampling run's store or made now. `pictures`:
    of the condition's own reference, the digest.

    The store knows them by host values: looking at latents would make the processor wait for the card in every step. A
    call of which these values do not say what its conditioning frames are computes them itself.
    """
    run = call.transformer_options.get(RUN)
    if run is None or not run.steady:
        return call
    key = cache_key(call, run.shape, pictures)
    if key is None:
        return call
    name, frames = key
    make = partial(make_cache, call, offload, run.once(("copies", name), lambda: place_copies(call)))
    if WINDOW in call.transformer_options:      # a stream goes on: what left its sight leaves the store
        return call.with_extra(cache=run.newest(("kv cache", offload, name), frames, make))
    return call.with_extra(cache=run.once(("kv cache", offload, key), lambda: make(run.ends)))


def with_keys_beside(call: LongCatCall, beside: tuple[Beside, ...], techniques: tuple[Technique, ...], name: str,
                     process_in: Callable[[Tensor], Tensor]) -> LongCatCall:
    """The call whose noisy frames see a video of the person or a scene; clean ones never do, so they are cached."""
    if find_sparse_attention(techniques) is not None:
        raise ValueError(f"model: Block Sparse Attention counts whole frames of keys, and a {beside[0].called} has "
                         "some of each frame's. Remove one of them")
    if not call.extra.get("cache") and (call.num_cond_frames or call.extra.get("reference") is not None):
        call = call.with_extra(cache=make_cache(call, "VRAM", None, ExitStack()))
    options, network = call.transformer_options, call.executor.class_obj

    def keys_of(one: Beside) -> Cached:
        latents = latents_of(one.span, call.x, call.x.shape[1], process_in, options)
        return video_keys(network, call.x, latents, one, options, name)

    return call.with_extra(beside=tuple(keys for one in beside for keys in keys_of(one)))


def cache_key(call: LongCatCall, sampled: tuple[int, ...], pictures: Hashable) -> tuple[Hashable, Hashable] | None:
    """What determines the conditioning frames of a call in a sampling run on latents of shape `sampled`, and which of
    these they are. None where there are none, and where the call is of some part of the latent (tiles, areas)."""
    reference, window = call.extra.get("reference"), window_of(call.transformer_options)
    frames = window.latents if window is not None else tuple(range(sampled[2]))
    given, references = call.num_cond_frames, 0 if reference is None else reference.shape[2]
    if len(frames) != call.x.shape[2] or sampled[3:] != call.x.shape[3:] or not references + given:
        return None
    shape = list(call.x.shape)
    if WINDOW in call.transformer_options:      # however many are not finished
        frames, shape[2] = frames[:given], 0
    name = (id(call.executor.class_obj), pictures, references, branches(call), tuple(shape), call.x.dtype,
            call.x.device)
    return name, (given, frames)


def branches(call: LongCatCall) -> int:
    """How many conditions a batch holds one behind the other; ComfyUI batches such as have the same reference."""
    return len(call.transformer_options.get("cond_or_uncond", (0,)))


def make_cache(call: LongCatCall, offload: str, copies: Sequence[int] | None, ends: ExitStack) -> tuple[KVCache, ...]:
    """A KV cache of each reference, anchor and the context, those of one condition: all see the same ones. `copies`:
    what place_copies says, where it is known.

    A picture that stands at several times has one cache. It sees itself alone, so that its values and its keys before
    RoPE are the same at each of them; they are rotated where they are read.
    """
    reference, given = call.extra.get("reference"), call.num_cond_frames
    parts = [part for part in (reference, call.x[:, :, :given]) if part is not None and part.shape[2]]
    clean = torch.cat(parts, 2).chunk(branches(call))[0]
    shown = range(clean.shape[2] - given) if copies is None else copies
    different = sorted(set(shown))
    if len(different) < len(shown):
        clean = torch.cat([clean[:, :, different], clean[:, :, len(shown):]], 2)
    lengths = (1,) * len(different) + ((given,) if given else ())
    theirs = options_alone(call.transformer_options)
    blocks = RamBlocks(clean.device) if offload == "RAM" else None
    if blocks is not None:
        ends.callback(blocks.close)
    caches = call.executor.class_obj.make_caches(clean, lengths, transformer_options=theirs,
                                                 sparse=call.extra.get("sparse"),
                                                 keep=None if blocks is None else blocks.park)
    if blocks is not None:
        caches = tuple(replace(cache, blocks=blocks.pairs(index)) for index, cache in enumerate(caches))
    level = logging.DEBUG if WINDOW in call.transformer_options else logging.INFO     # a stream has one for each block
    logger.log(level, "KV cache of %d conditioning frames: %.0f MB in %s for this chunk",
               sum(cache.frames for cache in caches), sum(cache.bytes for cache in caches) / 1e6, offload)
    return (*(caches[different.index(place)] for place in shown), *caches[len(different):])


def place_copies(call: LongCatCall) -> list[int]:
    """Of each reference and anchor where its picture stands first. With several it waits for the card: once a run."""
    reference = call.extra.get("reference")
    if reference is None or reference.shape[2] < 2:
        return [] if reference is None else list(range(reference.shape[2]))
    flat = reference.chunk(branches(call))[0].movedim(2, 0).flatten(1)
    return torch.stack([(flat == one).all(1) for one in flat]).int().argmax(1).tolist()
