"""Plan Take: speech in, a chunk plan out, with its cost stated before any GPU work."""
import json
from dataclasses import replace

from comfy_api.latest import io

from .. import backbones
from ..backbones import attach
from ..host.continued_take import plan_with_model
from ..host.story_pictures import check_script, digest_pictures, drive_by_script, read_keyframes
from ..host.stream_note import describe_stream
from ..pipelines.take.driving_story import Driving
from ..pipelines.take.plan import MAX_FPS, Take, describe, exact_fps
from ..pipelines.take.plan_view import view_of
from ..techniques.lookahead_anchor import LookaheadAnchor
from ..techniques.timeline import Timeline
from .input_checks import check_inputs, try_reading
from .sockets import (
    DRIVING,
    LARGEST_SIDE,
    LONGEST_CHUNK,
    NEAREST_BUCKET,
    PLAN,
    SIDE_STEP,
    opening_of,
    search_words,
    sentences,
)

LINES_ON_THE_NODE = 8


class LodestarPlanTake(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarPlanTake",
            display_name="Plan Take",
            category="Lodestar",
            description="Cuts a take as long as the speech into chunks and says what it will cost: chunks, video "
                        "length, trimmed frames, disk and RAM. What is left at its default is the model's own.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will make the take: it knows its frame rate, chunk "
                                                "length, overlap and size."),
                io.Audio.Input("audio", optional=True,
                               tooltip="The speech. The finished video carries it as it is. It may be left out where "
                                       "a driving video is connected."),
                io.Image.Input("reference", optional=True,
                               tooltip="Optional: the person's picture, as for Long Take. With width and height 0 the "
                                       "video gets its proportions, so that nothing is cropped."),
                io.Int.Input("width", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="Of the video: a multiple of 16 (TI2V-5B: 32). 0, with height 0: the model's own "
                                     "size, in the proportions of the reference where one is connected."),
                io.Int.Input("height", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="Of the video: a multiple of 16 (TI2V-5B: 32). 0, with width 0: the model's own."),
                io.Float.Input("fps", default=0.0, min=0.0, max=float(MAX_FPS), step=0.001,
                               tooltip="Frames a second. 0: what the model was trained at; the help page has a table "
                                       "of all models."),
                io.Int.Input("chunk_frames", default=0, min=0, max=LONGEST_CHUNK,
                             tooltip="Pixel frames of one chunk, overlap included; rounded to whole latents. 0: "
                                     "what the model was trained with; the help page has a table of all models."),
                io.Int.Input("overlap_frames", default=-1, min=-1, max=LONGEST_CHUNK - 1,
                             tooltip="Pixel frames of a chunk that the next one repeats, as its context. -1: what the "
                                     "model expects; the help page has a table of all models."),
                io.String.Input("script", default="", multiline=True,
                                tooltip="Optional: what happens when, one event per line, such as '0:12 she laughs', "
                                        "'0:20 [keyframe smile.png]', '0:40 [anchor 0.5 s]' or "
                                        "'0:50 [driving wave.mp4]'. The timeline below edits this text. "
                                        "Prompts need clip on Long Take."),
                io.Int.Input("seed_step", default=1, min=0, max=1000000,
                             tooltip="Mixed into the noise seed for each chunk. 0 gives every chunk the same noise."),
                io.Float.Input("max_seconds", default=0.0, min=0.0, max=86400.0, step=0.1,
                               tooltip="Use only the first seconds of the speech, to try things out. 0 is all. "
                                       "Of a stream without speech it is the longest that Live Take makes it."),
                io.Audio.Input("soundtrack", optional=True,
                               tooltip="The sound of the video where it is not the speech alone: the same recording "
                                       "with music, for instance. Cut where the speech ends."),
                io.Boolean.Input("nearest_bucket", default=False, optional=True, tooltip=NEAREST_BUCKET),
                DRIVING.Input("driving", optional=True,
                              tooltip="From Driving Video, for models that follow one. Without speech the take is as "
                                      "long as it is, and has its sound where soundtrack gives no other."),
                io.Int.Input("block_latents", default=0, min=0, max=16, optional=True,
                             tooltip="0: chunks. Otherwise a stream: blocks of that many latents for Rolling Window, "
                                     "without chunk_frames, overlap_frames and seed_step."),
                io.Video.Input("continue_from", optional=True,
                               tooltip="The clip that Long Take goes on from. With width and height 0 the take gets "
                                       "its proportions; the summary says how long both are together. Times of the "
                                       "script count from where the new part begins."),
            ],
            outputs=[PLAN.Output(display_name="plan", tooltip="For Long Take, Reference Picture and Take Report."),
                     io.String.Output(display_name="summary", tooltip="The plan in words, cost included; the node "
                                                                      "shows it when it has run.")],
            **search_words("long video", "talking video", "chunks", "frame rate", "video length", "script", "timeline"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, audio=None, width=0, height=0, fps=0.0, chunk_frames=0, overlap_frames=-1, script="",
                seed_step=1, max_seconds=0.0, reference=None, soundtrack=None, nearest_bucket=False, driving=None,
                block_latents=0, continue_from=None) -> io.NodeOutput:
        backbone, speech = backbones.find(model), audio and opening_of(audio, max_seconds)
        driving = drive_by_script(script, driving)
        backbone.check_driving(driving.sources if driving else ())
        take, _, chosen = plan_with_model(
            model, reference, continue_from,
            lambda clock, _: frames_of(clock, speech, driving, max_seconds, block_latents > 0), block_latents, script,
            seed_step, width=width, height=height, fps=exact_fps(fps) if fps else None,
            chunk_frames=chunk_frames, nearest_bucket=nearest_bucket, overlap_frames=overlap_frames)
        sound = sound_of(soundtrack, speech, driving, float(take.plan.seconds))
        take = replace(take, audio=sound, speech=speech, driving=driving,
                       keyframes=read_keyframes(take.plan.story))
        cost = describe(take.plan, backbone.latent_channels(model.model), backbone.spatial_ratio)
        summary = lines_of(chosen.note, chosen.size_note, cost, describe_stream(model, take.plan), take.length_note,
                           backbone.fps_note(chosen.fps))
        return io.NodeOutput(take, summary, ui=page_values(take, attach.technique_of(model, LookaheadAnchor), summary))

    @classmethod
    def validate_inputs(cls, script=None):
        return try_reading(check_script, script)

    @classmethod
    def fingerprint_inputs(cls, script="", **others):
        return digest_pictures(script or "")


def page_values(take: Take, anchor: LookaheadAnchor | None, summary: str) -> dict[str, list[str]]:
    """What the page gets: the summary's head as text, and the plan for the timeline as JSON."""
    ahead = anchor.distance if anchor is not None and anchor.placement == "lookahead" else None
    return {"text": [head_of(summary)], "lodestar_plan": [json.dumps(view_of(take, ahead))]}


def frames_of(clock: Timeline, speech: dict | None, driving: Driving | None, max_seconds: float,
              stream: bool = False) -> int:
    """Pixel frames of the take: the speech's, or without speech the driving video's, or of a stream at most
    `max_seconds`. Raises ValueError."""
    if speech is not None:
        frames = clock.frames_for_samples(speech["waveform"].shape[-1], speech["sample_rate"])
    elif driving is not None:
        own = driving.frames_at(clock.fps)
        frames = min(own, clock.frames_for_seconds(max_seconds)) if max_seconds else own
    elif stream and max_seconds:
        frames = clock.frames_for_seconds(max_seconds)
    else:
        raise ValueError("audio: nothing says how long the take is. Connect the speech, or a Driving Video to driving")
    if driving is not None:
        driving.check_length(frames, clock.fps)
    return frames


def sound_of(soundtrack: dict | None, speech: dict | None, driving: Driving | None, seconds: float) -> dict | None:
    """The sound of the video: another that was given, the speech, or the driving video's own."""
    own = soundtrack or (driving.sound() if speech is None and driving else None)
    return speech if own is None else opening_of(own, seconds)


def lines_of(*notes: str) -> str:
    return "\n".join(filter(None, notes))


def head_of(text: str) -> str:
    """What of a summary fits a node; a long script's notes are counted."""
    lines = text.split("\n")
    rest = len(lines) - LINES_ON_THE_NODE
    shown = lines if rest <= 0 else [*lines[:LINES_ON_THE_NODE], f"... and {rest} more lines in the summary"]
    return sentences(shown)
