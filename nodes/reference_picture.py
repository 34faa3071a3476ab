"""Reference Picture: the person, fitted to the take's size and encoded, for anchors and keyframes."""
from comfy_api.latest import io

from ..backbones.images import FITS, encode_picture, fit_picture
from .input_checks import check_inputs, name_input
from .sockets import LARGEST_SIDE, PLAN, SIDE_STEP, search_words, size_of


class LodestarReferencePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarReferencePicture",
            display_name="Reference Picture",
            category="Lodestar",
            description="A picture of the person, fitted to the size of the take and encoded to one latent: what the "
                        "anchor and keyframe nodes take.",
            inputs=[
                io.Image.Input("image", tooltip="The person. Of several pictures the first is used; transparent "
                                                "parts become white."),
                io.Vae.Input("vae", tooltip="The video VAE of the model that makes the take."),
                PLAN.Input("plan", optional=True,
                           tooltip="From Plan Take, whose model must then come from before the anchor nodes: the "
                                   "picture gets the take's size."),
                io.Int.Input("width", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="The take's width, a multiple of 16, where no plan is connected. 0: the plan's."),
                io.Int.Input("height", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="The take's height, a multiple of 16, where no plan is connected. 0: the plan's."),
                io.Combo.Input("fit", options=list(FITS), default="crop",
                               tooltip="crop: fill the size and keep the middle. pad: keep the whole picture between "
                                       "black bars, which the model may reproduce. white: between white bars, as HuMo "
                                       "was trained."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The picture as one latent frame."),
                     io.Image.Output(display_name="image", tooltip="The fitted picture, as the model will get it.")],
            **search_words("identity", "anchor picture", "fit picture", "crop picture", "face"),
        )

    @classmethod
    @check_inputs
    def execute(cls, image, vae, width, height, fit, plan=None) -> io.NodeOutput:
        size = size_of(plan, width, height)
        with name_input("image"):
            picture = fit_picture(image, *size, fit)
        return io.NodeOutput({"samples": encode_picture(vae, picture)}, picture)
