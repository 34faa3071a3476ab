"""Which boxes the pack offers in ComfyUI's node search: read by make_blueprints.py and by their tests.

Each is a workflow of workflows/api in one node, without the sample person and the report. An input of a box goes to
inputs of nodes within; `prompt`, `length` and `quality` are theirs to type.
"""
from dataclasses import dataclass, field

LENGTH = "length (seconds, 0: all)"
STEPS = "quality (steps)"
WORDS = ("lodestar", "talking", "talking head", "talking avatar", "lip sync", "audio to video", "long video")


@dataclass(frozen=True)
class Input:
    """One of a box: `goes_to` are (node of the API file, input). `label` is what is shown where it is not the name."""
    name: str
    goes_to: tuple[tuple[int, str], ...]
    label: str = ""


@dataclass(frozen=True)
class Blueprint:
    """`workflow` in one node: `outside` are its nodes that stay out, `video` the one whose first output is its own."""
    workflow: str
    description: str
    inputs: tuple[Input, ...]
    outside: tuple[int, ...]
    video: int
    words: tuple[str, ...] = ()
    values: dict[int, dict[str, str]] = field(default_factory=dict)    # by node: widgets that differ from the workflow


def puppet_inputs(plan: int, take: int, speech: tuple[tuple[int, str], ...], quality: tuple[tuple[int, str], ...]
                  ) -> tuple[Input, ...]:
    return (Input("picture", ((plan, "reference"), (take, "reference"))), Input("speech", speech),
            Input("length", ((plan, "max_seconds"),), LENGTH), Input("quality", quality, STEPS))


S2V = (Input("picture", ((11, "reference"), (17, "reference"))), Input("speech", ((6, "audio"), (11, "audio"))),
       Input("prompt", ((7, "text"),)), Input("negative_prompt", ((8, "text"),), "negative prompt"),
       Input("length", ((11, "max_seconds"),), LENGTH), Input("quality", ((15, "steps"),), STEPS))

BLUEPRINTS = {
    "Talking puppet": Blueprint(
        "puppet", "A drawn character talks for as long as the speech. Needs no download and no graphics card: connect "
                  "Sample Person's picture and speech, and run.",
        puppet_inputs(10, 15, ((6, "audio"), (10, "audio")), ((13, "steps"),)), (3, 16), 15,
        ("puppet", "drawn character", "example")),
    "Streaming puppet": Blueprint(
        "streaming_puppet", "The drawn character as a stream: blocks that leave a rolling window, at the same cost "
                            "however long it is. Needs no download and no graphics card.",
        puppet_inputs(10, 15, ((6, "audio"), (10, "audio")), ((12, "passes"), (13, "passes"))), (3, 16), 15,
        ("streaming", "stream", "puppet", "real time")),
    "Talking avatar (Wan 2.2 S2V)": Blueprint(
        "first_take", "A picture talks for as long as the speech, minutes if need be. Needs Wan 2.2 S2V 14B, umt5-xxl, "
                      "the Wan VAE and wav2vec2-large (24 GB in all), and a card of 24 GB.",
        S2V, (5,), 17, ("avatar", "sadtalker", "infinitetalk", "wan", "s2v", "portrait")),
    "Two speakers (LongCat Avatar 1.5)": Blueprint(
        "longcat_two_speakers", "Two people in one picture talk in turn, each with a recording: the first speaks on "
                                "the left. Needs LongCat-Video-Avatar 1.5 and its LoRA, umt5-xxl, the Wan VAE and "
                                "whisper-large-v3 (27 GB in all), and a card of 24 GB.",
        (Input("picture", ((10, "reference"), (11, "reference"), (16, "reference"))),
         Input("left_speech", ((10, "audio_1"),), "speech on the left"),
         Input("right_speech", ((10, "audio_2"),), "speech on the right"), Input("prompt", ((5, "text"),)),
         Input("length", ((11, "max_seconds"),), LENGTH)),
        (6, 8), 16, ("two speakers", "conversation", "dialogue", "podcast", "multitalk")),
    "Continue a video (Wan 2.2 S2V)": Blueprint(
        "first_take", "A video of yours goes on: the result is the video and then, from its last frames, the person "
                      "talking for as long as the speech. Needs what Talking avatar (Wan 2.2 S2V) needs.",
        (Input("video", ((11, "continue_from"), (17, "continue_from"))), *S2V), (5,), 17,
        ("extend video", "continue", "video to video"), {17: {"filename_prefix": "lodestar/continued"}}),
}
