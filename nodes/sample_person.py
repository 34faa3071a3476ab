"""Sample Person: a picture and a speech recording that come with the pack, so that a template runs as it opens."""
from comfy_api.latest import io

from ..host.sample_people import load_person, people
from .input_checks import check_inputs
from .sockets import opening_of, search_words


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
                                       "a photograph, 512x512, with 15 s of a synthetic voice. empty room: another "
                                       "scene for the character, 96x96, transparent where it will be."),
                io.Float.Input("seconds", default=0.0, min=0.0, max=60.0, step=0.5,
                               tooltip="Only the first seconds of the speech. 0 is all."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture, for Long Take's reference."),
                     io.Audio.Output(display_name="audio",
                                     tooltip="The speech, for Plan Take and for the audio features."),
                     io.Mask.Output(display_name="mask", tooltip="Where the picture is transparent, for Custom "
                                                                 "Background.")],
            **search_words("example", "demo", "test picture", "test speech", "sample image", "sample audio"),
        )

    @classmethod
    @check_inputs
    def execute(cls, person, seconds) -> io.NodeOutput:
        picture, speech, mask = load_person(person)
        return io.NodeOutput(picture, opening_of(speech, seconds), mask)
