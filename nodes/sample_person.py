"""Sample Person: a picture and a speech recording that come with the pack, so that a template runs as it opens."""
import json
from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from .input_checks import checked
from .sockets import opening_of, search_words

ASSETS = Path(__file__).parent.parent / "assets"


def people() -> dict[str, dict[str, str]]:
    """By name, the files of each: {"picture": ..., "speech": ...}."""
    return json.loads((ASSETS / "people.json").read_text(encoding="utf-8"))


class LodestarSamplePerson(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = list(people())
        return io.Schema(
            node_id="LodestarSamplePerson",
            display_name="Sample Person",
            category="Lodestar",
            description="A picture and a speech recording from the pack, to try things out: nothing has to be "
                        "uploaded. For your own, put Load Image and Load Audio in its place.",
            inputs=[
                io.Combo.Input("person", options=names, default=names[0],
                               tooltip="drawn character: 96x96, for the puppet, with 20 s of a human voice. portrait: "
                                       "a photograph, 512x512, with 15 s of a synthetic voice."),
                io.Float.Input("seconds", default=0.0, min=0.0, max=60.0, step=0.5,
                               tooltip="Only the first seconds of the speech. 0 is all."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture, for Long Take's reference."),
                     io.Audio.Output(display_name="audio",
                                     tooltip="The speech, for Plan Take and for the audio features.")],
            **search_words("example", "demo", "test picture", "test speech", "sample image", "sample audio"),
        )

    @classmethod
    @checked
    def execute(cls, person, seconds) -> io.NodeOutput:
        from comfy_extras.nodes_audio import load  # what Load Audio reads with
        files = people()[person]
        with Image.open(ASSETS / files["picture"]) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
        waveform, rate = load(str(ASSETS / files["speech"]))
        speech = opening_of({"waveform": waveform[None], "sample_rate": rate}, seconds)
        return io.NodeOutput(torch.from_numpy(pixels)[None], speech)
