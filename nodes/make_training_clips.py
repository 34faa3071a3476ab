"""Make Training Clips: a folder of videos, or one, as latents, speech and masks on disk, which recipes train on."""
from comfy_api.latest import io, ui

from ..host.training_clips import ClipRequest, find_source, make_training_clips
from ..pipelines.training.clip_maker import FACES
from .input_checks import check_inputs
from .sockets import CLIPS, LARGEST_SIDE, LONGEST_CHUNK, SIDE_STEP, search_words


class LodestarMakeTrainingClips(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarMakeTrainingClips",
            display_name="Make Training Clips",
            category="Lodestar/training",
            description="Encodes a folder of videos, or one video, once, for training: each clip's latents, speech "
                        "features and face mask become a file. Videos are read frame by frame; cancel at any time, and "
                        "the next run makes what is missing.",
            inputs=[
                io.Model.Input("model", tooltip="What is to be trained: it says frame rate, size, chunk length and how "
                                                "speech is encoded."),
                io.String.Input("folder", default="",
                                tooltip="A folder of videos on the machine that ComfyUI runs on, folders in it "
                                        "included, or one video file; or the name of either in its output or input "
                                        "folder; or a folder of clips that were made before. assets/talking.mp4: this "
                                        "pack's own sample."),
                io.Vae.Input("vae", tooltip="The model's own VAE."),
                io.AudioEncoder.Input("audio_encoder", optional=True,
                                      tooltip="The model's own, for the speech features. Without it only recipes "
                                              "that need no speech can use the clips."),
                io.Int.Input("chunk_frames", default=0, min=0, max=LONGEST_CHUNK,
                             tooltip="Pixel frames of a chunk in training. 0: the model's own. A clip is longer."),
                io.Float.Input("clip_seconds", default=8.0, min=0.5, max=600.0, step=0.5,
                               tooltip="Length of a clip. Videos are cut one after another; what is left at the end "
                                       "is not used."),
                io.Combo.Input("faces", options=list(FACES), default=FACES[0],
                               tooltip="whole picture: its middle. face mask: also where the face is, clips without "
                                       "one are left out. around the face: cropped to head and shoulders, standing "
                                       "still. The last two need OpenCV's face files."),
                io.Int.Input("width", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP, optional=True,
                             tooltip="Of the clips in pixels. 0: the model's own size."),
                io.Int.Input("height", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP, optional=True,
                             tooltip="Of the clips in pixels. 0: the model's own size."),
                io.Boolean.Input("perturbed", default=False, optional=True,
                                 tooltip="Encode each clip a second time with its pictures spoilt, for the recipe "
                                         "restorative flow. Twice the time."),
                io.String.Input("name", default="", optional=True,
                                tooltip="The clips' folder in output/lodestar_clips. Empty: named as the folder or "
                                        "the video."),
                io.Int.Input("seed", default=0, min=0, max=2 ** 31 - 1, optional=True,
                             tooltip="Which frames become pictures of the person, and how clips are spoilt."),
            ],
            outputs=[CLIPS.Output(display_name="clips", tooltip="The folder of clips, opened: what recipes train on.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **search_words("dataset", "data set", "train lora", "fine-tune", "encode videos", "training data"),
        )

    @classmethod
    def fingerprint_inputs(cls, folder="", **_) -> str:
        """Changes with what is in the folder: a link brings no folder before the run."""
        source = find_source(folder) if folder and folder.strip() else None
        files = [] if source is None else [source, *sorted(source.rglob("*"))]
        return str([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()])

    @classmethod
    @check_inputs
    def execute(cls, model, folder, vae, chunk_frames, clip_seconds, faces, audio_encoder=None, width=0, height=0,
                perturbed=False, name="", seed=0) -> io.NodeOutput:
        request = ClipRequest(model, vae, audio_encoder, chunk_frames, clip_seconds, faces, width, height, perturbed,
                              seed)
        store, said = make_training_clips(folder, name, request, getattr(cls.hidden, "unique_id", None))
        return io.NodeOutput(store, ui=ui.PreviewText(said))
