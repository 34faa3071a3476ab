"""Custom Background (TAVR): a scene for the person to be in, beside every chunk."""
from comfy_api.latest import io

from ..backbones import attach
from ..host.custom_background import MOST_FRAMES, make_background
from ..techniques.custom_background import THEN
from .input_checks import check_inputs
from .sockets import LARGEST_SIDE, PLAN, SIDE_STEP, search_words, size_of


class LodestarCustomBackground(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarCustomBackground",
            display_name="Custom Background",
            category="Lodestar/techniques",
            description="Puts the person into a scene of your own: every frame attends to a picture of it, and from "
                        "the second chunk on to the take's own first frame, so that the place stays (TAVR).",
            inputs=[
                io.Model.Input("model", tooltip="A model that takes videos of the person: Wan, LongCat, and what is "
                                                "built on them. Others say why not."),
                io.Vae.Input("vae", tooltip="The video VAE of the model that makes the take."),
                io.Image.Input("image", extra_dict={"pictures": MOST_FRAMES + 1},
                               tooltip="The scene: a picture, or up to 49 frames of a camera that stands still, at the "
                                       "model's rate. Whoever is under the mask is not seen."),
                io.Mask.Input("mask", tooltip="Where the person will be. What it touches of the scene is left to the "
                                              "model."),
                io.Combo.Input("then", options=list(THEN), default=THEN[0],
                               tooltip="What holds the scene from the second chunk on. the take's first frame: with "
                                       "the person in it, as the model drew both. keep: the picture."),
                PLAN.Input("plan", optional=True,
                           tooltip="From Plan Take, whose model must then come from before this node: the scene gets "
                                   "the take's size."),
                io.Int.Input("width", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP, optional=True,
                             tooltip="The take's width, where no plan is connected. 0: the plan's, or the image's."),
                io.Int.Input("height", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP, optional=True,
                             tooltip="The take's height, where no plan is connected. 0: the plan's, or the image's."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the scene attached, for Plan Take and a guider.")],
            **search_words("background", "scene", "tavr", "replace background", "cross scene", "room", "green screen"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, vae, image, mask, then, plan=None, width=0, height=0) -> io.NodeOutput:
        size = size_of(plan, width, height) if plan is not None or width or height else None
        technique, said = make_background(model, vae, image, mask, then, size)
        return io.NodeOutput(attach.with_technique(model, technique), ui={"text": [said]})
