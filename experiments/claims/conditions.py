"""Under which conditions takes are made for the claims, and what one chunk of each asks of the network.

The puppet's chunk is 13 latents, the first 4 conditioning frames: new ones stand at times 4 to 12, their middle is 8,
and a picture ahead stands at 12 + d. A lookahead of 12 frames is d = 3.
"""
from dataclasses import dataclass
from fractions import Fraction

from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import Technique
from lodestar.techniques.timeline import Timeline
from lodestar.training.puppet.network import CHUNK, CONTEXT
from lodestar.training.puppet.world import FPS

NEW = CHUNK - CONTEXT
MIDDLE = (CONTEXT + CHUNK - 1) // 2
TIMELINE = Timeline(Fraction(FPS))
DISTANCES = (4, 8, 12, 24, 48, 80)      # pixel frames
DEFAULT, PAST, GUIDED = 12, 8, 3.0      # frames ahead, frames before the chunk (Seo et al., Tab. 4), audio scale
CONTEXTS, SPEECHES = ("stitch", "re-encode", "sliding", "truth"), ("speech", "silence", "null")
VIDEO_FRAMES = (13, 21, 33, 49)         # of one stream, for the paper's 12, 20, 32 and 48
VIDEO_LATENTS = tuple(map(TIMELINE.latents_for_frames, VIDEO_FRAMES))


@dataclass(frozen=True)
class Condition:
    """`weights`: name of a training config. `context`: how the next chunk begins; "sliding" has no chunks but rolling
    windows that move with the steps, as in Sonic; "truth" is no take, but the true frames through the VAE. `speech`:
    "silence" is sound without anything in it, "null" the zeros that guidance calls no audio. `video`: latents of a
    video of the character in another scene, `selected`: of which only the head's tokens are kept; `video_sound`: with
    what it says there."""
    label: str
    techniques: tuple[Technique, ...] = ()
    weights: str = "puppet"
    reference: bool = True
    story: bool = False
    context: str = "stitch"
    speech: str = "speech"
    audio_scale: float = 1.0
    video: int = 0
    selected: bool = True
    video_sound: bool = False

    def __post_init__(self):
        if self.context not in CONTEXTS or self.speech not in SPEECHES:
            raise ValueError(f"{self.label}: context {self.context!r}, speech {self.speech!r}; wanted one of "
                             f"{CONTEXTS} and one of {SPEECHES}")


def ahead(frames: int = DEFAULT) -> tuple[Technique, ...]:
    return (LookaheadAnchor(distance=TIMELINE.distance_in_latents(frames)),)


def inside(latent: int) -> tuple[Technique, ...]:
    return (LookaheadAnchor(placement="in chunk", index=latent),)


BEFORE = (LookaheadAnchor(placement="past", distance=TIMELINE.distance_in_latents(PAST)),)
END = (LookaheadAnchor(placement="chunk end"),)
UNSTITCHED, FIXED, NULL = "puppet_unstitched", "puppet_fixed_anchor", "puppet_null_silence"
SAME_SCENE, BOTH_SCENES, CROSS_ONLY, PREFERRED = "same_scene", "both_scenes", "cross_only", "preferred"


def with_video(words: str, weights: str = BOTH_SCENES, **fields) -> Condition:
    """Without a picture, with a video of the character elsewhere."""
    return Condition(words, weights=weights, reference=False, **{"video": VIDEO_LATENTS[1], **fields})


CONDITIONS = {
    "truth": Condition("the true frames through the VAE", context="truth"),
    "none": Condition("no reference", reference=False),
    "plain": Condition("LongCat's own reference, index 10"),
    **{f"ahead {frames}": Condition(f"lookahead {frames} frames", ahead(frames)) for frames in DISTANCES},
    "past": Condition(f"reference {PAST} frames before the chunk", BEFORE),
    "sonic": Condition("Sonic's position shift", context="sliding"),
    "end": Condition("reference at the chunk's end (suffix)", END),
    "fixed": Condition("trained with a fixed anchor, lookahead 12", ahead(), FIXED),
    "start": Condition("reference at time 0 (no time embedding; prefix)", inside(0)),
    "middle": Condition("reference in the middle", inside(MIDDLE)),
    "skip": Condition("reference in the middle, skip attention", (*inside(MIDDLE), ReferenceSkip())),
    "used only": Condition("stitching not trained, used; lookahead 12", ahead(), UNSTITCHED),
    "neither": Condition("stitching neither trained nor used; lookahead 12", ahead(), UNSTITCHED, context="re-encode"),
    "used only, none": Condition("stitching not trained, used; no reference", (), UNSTITCHED, False),
    "neither, none": Condition("stitching neither trained nor used; no reference", (), UNSTITCHED, False,
                               context="re-encode"),
    "story": Condition("narrative keyframes, lookahead 12", ahead(), story=True),
    "truth, silent": Condition("the true frames of silence through the VAE", context="truth", speech="silence"),
    **{f"{name}, {speech}{' guided' * (scale > 1)}": Condition(
        f"{words}, {'encoded silence' if speech == 'silence' else 'null audio'}{f', guided {scale:g}' * (scale > 1)}",
        ahead(), weights, speech=speech, audio_scale=scale)
       for name, words, weights in (("encoded", "trained with encoded silence", "puppet"),
                                    ("null", "trained with zeros for silence", NULL))
       for speech, scale in (("silence", 1.0), ("null", 1.0), ("silence", GUIDED))},
    **{f"video {frames}": with_video(f"a video of {frames} frames elsewhere, head alone", video=latents)
       for frames, latents in zip(VIDEO_FRAMES, VIDEO_LATENTS, strict=True)},
    "video whole": with_video(f"a video of {VIDEO_FRAMES[1]} frames elsewhere, all tokens", selected=False),
    "video sound": with_video(f"a video of {VIDEO_FRAMES[1]} frames elsewhere, with its sound", video_sound=True),
    "same scene": with_video("trained on videos of the same scene", SAME_SCENE),
    "cross only": with_video("trained on videos of another scene", CROSS_ONLY),
    "preferred": with_video("trained in both stages, then by preferences", PREFERRED),
}


def techniques_of(condition: Condition, story: tuple) -> tuple[Technique, ...]:
    """`story`: (seconds, latents) of the keyframes, used where the condition tells one."""
    if not condition.story:
        return condition.techniques
    story_so_far = NarrativeKeyframes()
    for seconds, latents in story:
        story_so_far = story_so_far.plus(seconds, latents)
    return (*condition.techniques, story_so_far)


def first_new_frame(chunk: int) -> int:
    """Of the take; chunk 0 has one conditioning latent, but is measured from the same place as the others."""
    return TIMELINE.first_frame(NEW * chunk + CONTEXT)


def chunks_for(seconds: float) -> int:
    """The fewest that reach so far."""
    latents = TIMELINE.latents_for_frames(TIMELINE.frames_for_seconds(seconds))
    return max(-(-(latents - CONTEXT) // NEW), 1)


def chunk_at(seconds: Fraction) -> int:
    """The last chunk that begins before `seconds`: the one whose anchor to its end is a keyframe of that time."""
    frame = TIMELINE.frames_for_seconds(seconds)
    return max((frame - 1 - first_new_frame(0)) // (NEW * TIMELINE.temporal_ratio), 0)


def chunks_to_measure(chunks: int, every: int, times: tuple[Fraction, ...] = ()) -> tuple[int, ...]:
    """The last chunk and every so manyth before it, and those of the story's times."""
    return tuple(sorted({*range(chunks - 1, -1, -every), *(min(chunk_at(time), chunks - 1) for time in times)}))
