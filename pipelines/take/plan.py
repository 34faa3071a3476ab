"""The plan of a take: which latents each chunk makes, which of them repeat the last chunk, and what it will cost.

The whole take is one latent sequence; chunks tile it. All numbers are ints and fractions, known before any GPU work.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from hashlib import sha256
from typing import Any

from torch import Tensor

from ...techniques.lookahead_anchor import FARTHEST
from ...techniques.timeline import Timeline
from .driving_story import Driving
from .story import ChunkStory, Story, clock, lay_on_chunks, parse_story

MIN_FPS, MAX_FPS = 1, 240
FILM_TOLERANCE = 0.0002     # of the rate: people type 23.98 for 24000/1001
CHUNK_SECONDS = 2           # of a stream: what is sampled in one run, and may be lost when it is broken off
SEGMENT_BITS_PER_PIXEL = 0.2  # talking heads at the writer's default quality; an estimate, named so in `describe`
ENCODER_LOOKAHEAD_FRAMES = 64  # what libx264 holds back, as yuv420p, at 4 threads


@dataclass(frozen=True)
class Chunk:
    """One model call's latents. Latent indices are global: latent 0 is the first of the take."""
    index: int
    first_latent: int      # the chunk's first latent, context included
    context_latents: int   # leading latents that repeat the previous chunk (0: first chunk, or context outside)
    latents: int           # latents, context included
    prompt: str            # "" means the prompt of the graph
    seed_offset: int       # which noise of the take's seed; 0 is that seed's own
    anchor_latents: int | None = None   # how far ahead its anchor stands; None: as the anchor's node says
    again: int = 0         # which other noise it is made again with, once the take is whole; 0: its own

    @property
    def new_latents(self) -> int:
        return self.latents - self.context_latents

    @property
    def first_new_latent(self) -> int:
        return self.first_latent + self.context_latents

    @property
    def end_latent(self) -> int:
        return self.first_latent + self.latents

    def seed(self, take_seed: int) -> int:
        """Of the chunk's noise, 0 to 2**64 - 1: mixed, so that no chunk of a take has the noise of its neighbour's."""
        if self.seed_offset == self.again == 0:
            return take_seed
        mark = f"{take_seed} {self.seed_offset}" + (f" again {self.again}" if self.again else "")
        return int.from_bytes(sha256(mark.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class ChunkPlan:
    timeline: Timeline
    total_frames: int
    width: int
    height: int
    chunks: tuple[Chunk, ...]
    notes: tuple[str, ...] = ()   # what was snapped, said to the user
    block_latents: int = 0        # of a rolling window's blocks, which latent 0 precedes; 0: chunks are sampled whole
    opening_latents: int = 0      # of a clip that the take goes on from: its last frame is the take's frame 0
    asked: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)   # plan_take's arguments
    repeated_frames: int = 0      # of clips that are each decoded on their own: pixel frames that one makes again
    story: Story = Story()
    remakes: tuple[Chunk, ...] = ()   # chunks that are made again, once all are made

    def after_clip(self, opening_latents: int) -> "ChunkPlan":
        """The same take behind the last latents of a clip. Raises ValueError as plan_take does."""
        return self if self.opening_latents == opening_latents else plan_take(
            **{**self.asked, "opening_latents": opening_latents})

    def number_of(self, chunk: Chunk) -> int:
        """The chunk's number, 0 for the one that begins with nothing before it."""
        return chunk.index + bool(self.opening_latents)

    @property
    def new_frames(self) -> int:
        """What the take itself makes of its frames: frame 0 may be a clip's."""
        return self.total_frames - bool(self.opening_latents)

    @property
    def total_latents(self) -> int:
        return self.chunks[-1].end_latent

    @property
    def overlap_latents(self) -> int:
        """How many latents every chunk but the first repeats of the one before; 0 where context is outside."""
        return self.chunks[-1].context_latents

    @property
    def longest_chunk(self) -> int:
        """Latents of the longest chunk."""
        return max(chunk.latents for chunk in self.chunks)

    @property
    def has_script(self) -> bool:
        return any(chunk.prompt for chunk in self.chunks)

    @property
    def trimmed_frames(self) -> int:
        """Frames that are decoded after the end of the speech and dropped."""
        last = self.chunks[-1]
        decoded = self.frame_of(last) + self.timeline.frames_for_latents(last.latents)
        return decoded - self.total_frames

    @property
    def seconds(self) -> Fraction:
        return self.timeline.seconds_at(self.total_frames)

    def frame_of(self, chunk: Chunk) -> int:
        """The pixel frame of the take at which the chunk begins, where its first latent is counted as one frame."""
        if not self.repeated_frames:
            return self.timeline.last_frame(chunk.first_latent)
        return chunk.index * (self.timeline.frames_for_latents(chunk.latents) - self.repeated_frames)

    def frames_of(self, chunk: Chunk) -> tuple[int, int]:
        """(first, end) pixel frames that are new in `chunk`, end exclusive, clipped to the take. They tile the take."""
        if self.repeated_frames:
            begins = self.frame_of(chunk)
            end = min(begins + self.timeline.frames_for_latents(chunk.latents), self.total_frames)
            return begins + self.repeated_frames * bool(chunk.index), end
        first = self.timeline.first_frame(chunk.first_new_latent)
        return first, min(self.timeline.first_frame(chunk.end_latent), self.total_frames)

    def seconds_of(self, chunk: Chunk) -> tuple[Fraction, Fraction]:
        """(start, end) of the chunk's new frames on the take's clock, exact. They tile the take."""
        first, end = self.frames_of(chunk)
        return self.timeline.seconds_at(first), self.timeline.seconds_at(end)

    def fingerprint_of(self, chunk: Chunk) -> dict[str, str]:
        """The part of a chunk's fingerprints (see journal) that the plan decides: chunk geometry, size, prompt,
        seed."""
        first, end = self.frames_of(chunk)
        return {
            "chunk layout": f"latents {chunk.first_latent}+{chunk.latents}, context {chunk.context_latents}, "
                            f"frames {first} to {end}, last {chunk is self.chunks[-1]}",
            "picture size": f"{self.width}x{self.height}",
            "fps": f"{self.timeline.fps}, {self.timeline.temporal_ratio} frames per latent",
            "prompt": chunk.prompt,
            "seed offset": str(chunk.seed_offset),
            **({} if chunk.anchor_latents is None else {"anchor distance": f"{chunk.anchor_latents} latents"}),
            **({"blocks": f"{self.block_latents} latents of {self.total_latents}"} if self.block_latents else {}),
            **({"clips": f"each repeats {self.repeated_frames} frames"} if self.repeated_frames else {}),
        }


@dataclass(frozen=True, eq=False)
class Take:
    """A plan and the sound of its video: {"waveform": (1, channels, samples), "sample_rate": Hz}, None without.

    `speech`: what it was made for, where the video is to have another sound. `driving`: what the person is to do.
    `clip_frames`: of the clip before it, at its rate, where it goes on from one. `keyframes`: the story's pictures
    (1, H, W, 3) as they came, each with its time in seconds.
    """
    plan: ChunkPlan
    audio: dict[str, Any] | None
    speech: dict[str, Any] | None = None
    driving: Driving | None = None
    clip_frames: int = 0
    keyframes: tuple[tuple[Fraction, Tensor], ...] = ()

    @property
    def video_frames(self) -> int:
        """Of the finished video, with the clip before it."""
        return self.clip_frames + self.plan.new_frames

    @property
    def length_note(self) -> str:
        """How long the clip and the take are together; empty without a clip."""
        if not self.clip_frames:
            return ""
        clock = self.plan.timeline
        return (f"goes on from a clip of {self.clip_frames} frames at this rate ({seconds(clock, self.clip_frames)}): "
                f"{self.video_frames} frames ({seconds(clock, self.video_frames)}) in all; times count from the clip's "
                "last frame")


def exact_fps(fps: float) -> Fraction:
    """A frame rate as people type it: 25, 12.5 -> 25/2, 23.976 or 23.98 -> 24000/1001. Outside 1..240: ValueError."""
    if not MIN_FPS <= fps <= MAX_FPS:  # NaN fails too
        raise ValueError(f"fps: got {fps:g}, wanted {MIN_FPS} to {MAX_FPS}, or 0 for the model's own")
    film = Fraction(round(fps * 1.001) * 1000, 1001)
    typed_film = fps != round(fps) and abs(fps - film) < FILM_TOLERANCE * fps
    return film if typed_film else Fraction(fps).limit_denominator(1000)


def plan_take(timeline: Timeline, total_frames: int, chunk_frames: int, overlap_frames: int, width: int, height: int,
              script: str | None = None, seed_step: int = 1, grid: int = 16, block_latents: int = 0,
              opening_latents: int = 0) -> ChunkPlan:
    """Cut a take of `total_frames` pixel frames into chunks, or with `block_latents` as `plan_stream` does.

    `chunk_frames` and `overlap_frames` are snapped down to whole latents: 81 -> 21, 80 -> 20, 13 -> 4, overlap 0 -> 0.
    Every chunk but the first repeats `overlap` latents. A take that fits one chunk is one chunk of exactly the latents
    it needs (at least 1). Otherwise the last chunk is shortened to what is needed, but not below half of the usual
    new latents (models are bad at very short ones); the rest is trimmed. Chunk i's seed is mixed of
    the take's and i * `seed_step`. `script`: see story. `grid`: the pixel grid of the backbone. `opening_latents`: how
    many a clip hands over, whose last frame is the take's frame 0; the first chunk repeats `overlap` of them.

    Raises ValueError for a chunk not longer than its overlap, fps outside 1..240, a size off the grid, no frames, or a
    script that cannot be read.
    """
    asked = dict(locals())
    if block_latents:
        return plan_stream(timeline, total_frames, block_latents, width, height, script, grid)
    _check_picture(timeline.fps, width, height, grid)
    least = 1 + bool(opening_latents)
    if opening_latents and timeline.step > 1:
        raise ValueError("this model's VAE encodes clips that each begin with a single frame, and a video may end "
                         "anywhere in one: a take cannot go on from it. Begin with its last picture as the reference")
    if total_frames < least:
        raise ValueError(f"the take has {total_frames} frames; the audio must last at least {least} frame"
                         f"{'s' * (least > 1)} ({float(least / timeline.fps):.3f} s at {_rate(timeline.fps)} fps)")
    chunk_latents = timeline.latents_within_frames(chunk_frames)
    overlap_latents = timeline.latents_within_frames(overlap_frames)
    if overlap_frames < 0 or chunk_latents <= overlap_latents:
        longer = timeline.latents_for_frames(timeline.frames_for_latents(max(overlap_latents, 0)) + 1)
        raise ValueError(
            f"chunk_frames: a chunk of {chunk_frames} frames ({chunk_latents} latents) must be longer "
            f"than its overlap of {overlap_frames} frames ({overlap_latents} latents), and the overlap 0 or more; "
            f"make the chunk at least {timeline.frames_for_latents(longer)} frames")
    needed = timeline.latents_for_frames(total_frames)
    windows = _windows(needed, chunk_latents, overlap_latents, bool(opening_latents), timeline.step)
    timeline.check_overlap(overlap_frames, len(windows))
    starts = [timeline.seconds_at(timeline.first_frame(first + context)) for first, context, _ in windows]
    starts[0] = Fraction(0)
    story = parse_story(script or "")
    laid = lay_on_chunks(story, starts, timeline.seconds_at(total_frames))
    chunks = _with_story(timeline, story, laid, (Chunk(index, first, context, latents, "", index * seed_step)
                                                 for index, (first, context, latents) in enumerate(windows)))
    snapped = _snap_notes(timeline, chunk_frames, chunk_latents, overlap_frames, overlap_latents)
    snapped += filter(None, [timeline.plan_note(chunk_latents - overlap_latents) if len(chunks) > 1 else ""])
    remakes = tuple(replace(chunk, again=again) for chunk, again in zip(chunks, laid.agains, strict=True) if again)
    return ChunkPlan(timeline, total_frames, width, height, chunks, (*snapped, *laid.notes),
                     opening_latents=opening_latents, asked=asked, story=story, remakes=remakes)


def plan_stream(timeline: Timeline, total_frames: int, block_latents: int, width: int, height: int,
                script: str | None = None, grid: int = 16) -> ChunkPlan:
    """Cut a take of `total_frames` pixel frames into chunks of whole blocks, about two seconds each, for a rolling
    window.

    Latent 0 is the picture; the last block is whole, and what of it lies behind the take is trimmed. Raises ValueError
    as `plan_take` does, and for blocks without a latent.
    """
    _check_picture(timeline.fps, width, height, grid)
    if total_frames < 1 or block_latents < 1:
        raise ValueError(f"the take has {total_frames} frames and blocks of {block_latents} latents; it needs at least "
                         "one of each")
    blocks = max(1, -(-(timeline.latents_for_frames(total_frames) - 1) // block_latents))
    size = max(1, round(CHUNK_SECONDS * timeline.fps / (timeline.temporal_ratio * block_latents)))
    firsts = range(0, blocks, size)
    places = [(first and 1 + first * block_latents, 1 + min(first + size, blocks) * block_latents) for first in firsts]
    starts = [timeline.seconds_at(timeline.first_frame(first)) for first, _ in places]
    story = _whole_story(script, "in a stream every block looks at those before it; set block_latents to 0")
    laid = lay_on_chunks(story, starts, timeline.seconds_at(total_frames))
    chunks = _with_story(timeline, story, laid, (Chunk(index, first, 0, end - first, "", 0)
                                                 for index, (first, end) in enumerate(places)))
    return ChunkPlan(timeline, total_frames, width, height, chunks, laid.notes, block_latents, story=story)


def _whole_story(script: str | None, why: str) -> Story:
    """A script's story. Raises ValueError where a chunk is to be made again and none can be by itself, for `why`."""
    story = parse_story(script or "")
    if story.agains:
        raise ValueError(f"script, line {story.agains[0].line}: no chunk can be made again by itself here: {why}, or "
                         "leave [again] out")
    return story


def _with_story(timeline: Timeline, story: Story, laid: ChunkStory, chunks: Iterable[Chunk]) -> tuple[Chunk, ...]:
    """The chunks with what the story has for each. Raises ValueError for a distance that no anchor can have."""
    ahead: dict[Fraction | None, int | None] = {None: None}
    one = timeline.temporal_ratio / timeline.fps
    for anchor in story.anchors:
        if anchor.distance is not None:
            ahead[anchor.distance] = latents = timeline.distance_in_latents(round(anchor.distance * timeline.fps))
            if not 1 <= latents <= FARTHEST:
                raise ValueError(f"script, line {anchor.line}: the anchor is to stand {float(anchor.distance):g} s "
                                 f"ahead, which is {latents} latents; wanted {float(one):.3g} "
                                 f"to {float(Fraction(FARTHEST) * one):.0f} s")
    return tuple(replace(chunk, prompt=prompt, anchor_latents=ahead[distance])
                 for chunk, prompt, distance in zip(chunks, laid.prompts, laid.distances, strict=True))


def plan_clips(timeline: Timeline, total_frames: int, clip_frames: int, repeated_frames: int, width: int, height: int,
               script: str | None = None, seed_step: int = 1, grid: int = 16) -> ChunkPlan:
    """Cut a take of `total_frames` pixel frames into clips of one length, each decoded on its own, of which all but the
    first make the last `repeated_frames` of the one before again, and these are dropped: c clips of 77 frames that
    repeat 4 last 77 + 73 (c - 1). Every clip is whole; what of the last lies behind the take is trimmed.

    Raises ValueError as `plan_take` does, and for clips that are not longer than what they repeat.
    """
    _check_picture(timeline.fps, width, height, grid)
    latents = timeline.latents_within_frames(clip_frames)
    frames = timeline.frames_for_latents(latents)
    if total_frames < 1 or frames <= repeated_frames:
        raise ValueError(f"chunk_frames: a take of {total_frames} frames in clips of {clip_frames} that repeat "
                         f"{repeated_frames}; it needs at least 1 frame, and clips of {repeated_frames + 1} or more")
    count = 1 + max(0, -(-(total_frames - frames) // (frames - repeated_frames)))
    starts = [index and index * (frames - repeated_frames) + repeated_frames for index in range(count)]
    story = _whole_story(script, "the clips of this model remember those before them")
    laid = lay_on_chunks(story, [timeline.seconds_at(frame) for frame in starts], timeline.seconds_at(total_frames))
    chunks = _with_story(timeline, story, laid, (Chunk(index, index * latents, 0, latents, "", index * seed_step)
                                                 for index in range(count)))
    return ChunkPlan(timeline, total_frames, width, height, chunks,
                     (*_snap_notes(timeline, clip_frames, latents, 0, 0), *laid.notes), repeated_frames=repeated_frames,
                     story=story)


def disk_bytes(plan: ChunkPlan, latent_channels: int, spatial_ratio: int) -> tuple[int, int]:
    """(latents, video) bytes on disk while the take is made: float32 latents exact, video an estimate."""
    area = plan.width * plan.height
    latents = plan.total_latents * latent_channels * area // spatial_ratio ** 2 * 4
    return latents, int(plan.total_frames * area * SEGMENT_BITS_PER_PIXEL / 8)


def ram_bytes(plan: ChunkPlan, latent_channels: int, spatial_ratio: int) -> int:
    """Bytes of RAM that latents and frames need at any one time: the longest chunk, however long the take is."""
    area = plan.width * plan.height
    window = plan.longest_chunk * latent_channels * area // spatial_ratio ** 2 * 4
    group = 2 * plan.timeline.temporal_ratio * area * 3 * (4 + 1)  # two latents' frames, float32 and uint8
    return 3 * window + group + ENCODER_LOOKAHEAD_FRAMES * area * 3 // 2


def describe(plan: ChunkPlan, latent_channels: int, spatial_ratio: int) -> str:
    """The plan in words, for the user, before any GPU work: chunks, length, trim, disk, RAM and what was snapped."""
    latents, video = disk_bytes(plan, latent_channels, spatial_ratio)
    lengths = [chunk.latents for chunk in plan.chunks]
    last = "" if lengths[-1] == lengths[0] else f", the last {_window_words(plan.timeline, lengths[-1])}"
    overlap = plan.overlap_latents
    lines = [
        *([f"a stream of blocks of {plan.block_latents} latents ({plan.block_latents * plan.timeline.temporal_ratio} "
           "frames); a rolling window looks all but one of its blocks ahead: live, a picture is that many times "
           f"{seconds(plan.timeline, plan.block_latents * plan.timeline.temporal_ratio)} behind its sound, and a step"]
          if plan.block_latents else []),
        f"{len(lengths)} {'chunk' if len(lengths) == 1 else 'chunks'} of {_window_words(plan.timeline, lengths[0])}"
        + last + (f", each repeating {overlap} latents of the one before" if overlap else "")
        + (f", each repeating {plan.repeated_frames} frames of the one before" if plan.repeated_frames else ""),
        f"video: {clock(plan.seconds)}, {plan.total_frames} frames at {_rate(plan.timeline.fps)} fps, "
        f"{plan.width}x{plan.height}; frames decoded after its end and trimmed: {plan.trimmed_frames}",
        f"disk while it runs: {_megabytes(latents + video)} (latents {_megabytes(latents)}, video about "
        f"{_megabytes(video)}); RAM for latents and frames: about "
        f"{_megabytes(ram_bytes(plan, latent_channels, spatial_ratio))} at any length",
    ]
    return "\n".join([*lines, *plan.notes])


def _windows(needed: int, chunk: int, overlap: int, opened: bool, step: int) -> list[tuple[int, int, int]]:
    """(first_latent, context_latents, latents) of each chunk. `opened`: latent 0 is there already. `step`: of which
    new latents are a multiple."""
    windows = [] if opened else [(0, 0, min(chunk, needed))]
    done, usual = 1 if opened else windows[0][2], chunk - overlap
    while done < needed:
        new = min(usual, max(needed - done, -(-usual // (2 * step)) * step))
        windows.append((done - overlap, overlap, overlap + new))
        done += new
    return windows


def _check_picture(fps: Fraction, width: int, height: int, grid: int) -> None:
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps: got {_rate(fps)}, wanted {MIN_FPS} to {MAX_FPS}, or 0 for the model's own")
    check_size(width, height, grid)


def check_size(width: int, height: int, grid: int) -> None:
    """Raises ValueError for a size that is not on a model's grid of pixels."""
    for name, size in (("width", width), ("height", height)):
        if size < grid or size % grid:
            below, above = size // grid * grid, -(-max(size, 1) // grid) * grid
            raise ValueError(f"{name}: got {size}, wanted a multiple of {grid} for this model, such as "
                             + (f"{below} or {above}" if below > 0 else f"{above}"))


def _snap_notes(timeline: Timeline, chunk_frames: int, chunk: int, overlap_frames: int, overlap: int) -> list[str]:
    pairs: Sequence[tuple[str, int, int]] = (("chunk", chunk_frames, chunk), ("overlap", overlap_frames, overlap))
    return [f"{name}: {frames} frames are shortened to {timeline.frames_for_latents(latents)} "
            f"({latents} whole latents)"
            for name, frames, latents in pairs if timeline.frames_for_latents(latents) != frames]


def _window_words(timeline: Timeline, latents: int) -> str:
    return f"{timeline.frames_for_latents(latents)} frames ({latents} latents)"


def seconds(timeline: Timeline, frames: int) -> str:
    return f"{float(timeline.seconds_at(frames)):.2f} s"


def _rate(fps: Fraction) -> str:
    return f"{float(fps):.6g}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
