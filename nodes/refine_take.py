"""Refine Take (LongCat-Video): a finished video at 720p and, where wanted, with twice the frames."""
from comfy_api.latest import InputImpl, io, ui

from ..host.driving_sources import open_video
from ..host.output_names import problem_of
from ..host.refinement import FITS, RATES, Asked, RefinementSampling, open_refinement
from .input_checks import check_inputs, name_input
from .sockets import LARGEST_SIDE, LONGEST_CHUNK, SIDE_STEP, search_words


class LodestarRefineTake(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarRefineTake",
            display_name="Refine Take",
            category="Lodestar",
            description="Makes a finished video of any model larger, and its motion smoother, with LongCat-Video and "
                        "its refinement LoRA: chunk by chunk in constant memory, with the sound kept. Queue again "
                        "after a crash or a cancel and it resumes.",
            inputs=[
                io.Noise.Input("noise", tooltip="Seed of the noise that each chunk is mixed with."),
                io.Guider.Input("guider", tooltip="Basic Guider with LongCat-Video, its refinement LoRA and Block "
                                                  "Sparse Attention; the prompt may be empty."),
                io.Sampler.Input("sampler", tooltip="Euler, as trained."),
                io.Sigmas.Input("sigmas", tooltip="LongCat Schedule with kind refine and 50 steps, which makes 5."),
                io.Vae.Input("vae", tooltip="The VAE of Wan 2.1."),
                io.Video.Input("video", tooltip="The finished take, or any video. It is read frame by frame."),
                io.Combo.Input("mode", options=list(RATES), default=next(iter(RATES)),
                               tooltip="spatial and temporal: larger, with twice the frames a second. spatial: only "
                                       "larger."),
                io.Int.Input("width", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="0, with height 0: the nearest bucket of the refinement, about 960x960 pixels in "
                                     "all. Multiples of 64 with Block Sparse Attention."),
                io.Int.Input("height", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="0, with width 0: the nearest bucket."),
                io.Combo.Input("fit", options=list(FITS), default=FITS[0],
                               tooltip="Where the bucket has other proportions. crop: a few percent at two edges are "
                                       "cut. stretch: as the authors do it."),
                io.Int.Input("chunk_frames", default=0, min=0, max=LONGEST_CHUNK,
                             tooltip="Frames of the video that one chunk refines, overlap included. 0: 93, as trained; "
                                     "fewer need less memory."),
                io.Int.Input("overlap_frames", default=-1, min=-1, max=LONGEST_CHUNK - 1,
                             tooltip="Frames of the video that two chunks share. -1: 13, as trained."),
                io.String.Input("filename_prefix", default="lodestar/refined",
                                tooltip="Name of the refined video below ComfyUI's output folder, with its tokens."),
                io.Boolean.Input("keep_chunks", default=False,
                                 tooltip="Keep the working files after the video is finished."),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The refined file."),
                     io.String.Output(display_name="path", tooltip="Where it is.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            **search_words("upscale", "720p", "super resolution", "frame interpolation", "longcat", "refinement",
                           "30 fps"),
        )

    @classmethod
    @check_inputs
    def execute(cls, noise, guider, sampler, sigmas, vae, video, mode, width, height, fit, chunk_frames, overlap_frames,
                filename_prefix="lodestar/refined", keep_chunks=False) -> io.NodeOutput:
        with name_input("video"):
            source = open_video(video, "the video")
        asked = Asked(mode, width, height, fit, chunk_frames, overlap_frames)
        session = open_refinement(RefinementSampling(noise, guider, sampler, sigmas), vae, source, asked, cls.hidden)
        take = session.make(filename_prefix, keep_chunks)
        preview = ui.PreviewVideo([ui.SavedResult(take.path.name, take.subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(take.path)), str(take.path), ui=preview)

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return problem_of(filename_prefix) or True
