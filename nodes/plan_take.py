"""Plan Take: speech in, a chunk plan out, with its cost stated before any GPU work."""
from comfy_api.latest import io

from .. import backbones
from ..pipelines.chunk_plan import MAX_FPS, MIN_FPS, describe, exact_fps, plan_take
from ..pipelines.story_script import parse_story
from ..techniques.timeline import Timeline
from .input_checks import checked
from .sockets import LARGEST_SIDE, LONGEST_CHUNK, PLAN, SIDE_STEP, SMALLEST_SIDE, Take


class LodestarPlanTake(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarPlanTake",
            display_name="Plan Take",
            category="Lodestar",
            description="Cuts a take as long as the speech into chunks and says what it will cost: chunks, video "
                        "length, trimmed frames, disk and RAM. The video ends with the speech, to the frame.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will make the take: it knows its grid and context."),
                io.Audio.Input("audio", tooltip="The speech. The finished video carries it as it is."),
                io.Int.Input("width", default=832, min=SMALLEST_SIDE, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="Of the video: a multiple of 16 (TI2V-5B: 32)."),
                io.Int.Input("height", default=480, min=SMALLEST_SIDE, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="Of the video: a multiple of 16 (TI2V-5B: 32)."),
                io.Float.Input("fps", default=16.0, min=float(MIN_FPS), max=float(MAX_FPS), step=0.001,
                               tooltip="Frames a second: what the model was trained at (Wan, S2V 16; TI2V-5B 24)."),
                io.Int.Input("chunk_frames", default=77, min=1, max=LONGEST_CHUNK,
                             tooltip="Pixel frames the model sees at once, overlap included; made whole latents "
                                     "(S2V 77, Wan 81, TI2V-5B 121)."),
                io.Int.Input("overlap_frames", default=-1, min=-1, max=LONGEST_CHUNK - 1,
                             tooltip="Pixel frames of a chunk that the next one repeats as its context. -1: what the "
                                     "model expects (Wan 13; S2V keeps its context outside the chunk, so 0)."),
                io.String.Input("script", default="", multiline=True,
                                tooltip="Optional: one prompt per line with its time, such as '0:12 she laughs'. Each "
                                        "starts with the nearest chunk, as the summary says. Needs clip on Long Take."),
                io.Int.Input("seed_step", default=1, min=0, max=1000000,
                             tooltip="Mixed into the noise seed for each chunk. 0 gives every chunk the same noise."),
                io.Float.Input("max_seconds", default=0.0, min=0.0, max=86400.0, step=0.1,
                               tooltip="Use only the first seconds of the speech, to try things out. 0 is all."),
                io.Audio.Input("soundtrack", optional=True,
                               tooltip="The sound of the video where it is not the speech alone: the same recording "
                                       "with music, for instance. Cut where the speech ends."),
            ],
            outputs=[PLAN.Output(display_name="plan", tooltip="For Long Take."),
                     io.String.Output(display_name="summary", tooltip="The plan in words, cost included.")],
        )

    @classmethod
    @checked
    def execute(cls, model, audio, width, height, fps, chunk_frames, overlap_frames, script, seed_step,
                max_seconds, soundtrack=None) -> io.NodeOutput:
        backbone = backbones.find(model)
        speech = opening_of(audio, max_seconds)
        clock = Timeline(exact_fps(fps), backbone.temporal_ratio)
        frames = clock.frames_for_samples(speech["waveform"].shape[-1], speech["sample_rate"])
        plan = plan_take(clock, frames, chunk_frames, backbone.overlap(overlap_frames), width, height, script,
                         seed_step, backbone.grid)
        summary = describe(plan, model.model.latent_format.latent_channels, backbone.spatial_ratio)
        track = speech if soundtrack is None else opening_of(soundtrack, float(plan.seconds))
        return io.NodeOutput(Take(plan, track, speech), summary + backbone.fps_note(clock.fps))

    @classmethod
    def validate_inputs(cls, script=None):
        """None is what comes by a link or not at all. One input only: ComfyUI says an error under each that is read."""
        try:
            parse_story(script or "")
        except ValueError as error:
            return str(error)
        return True


def opening_of(audio: dict, seconds: float) -> dict:
    """The first `seconds` of the speech, all of it for 0."""
    waveform, rate = audio["waveform"], audio["sample_rate"]
    return {"waveform": waveform[..., :max(round(seconds * rate), 1)] if seconds else waveform, "sample_rate": rate}
