"""Joint Speech: the speech for models that make picture and sound together, which hold it as sound latents."""
from comfy_api.latest import io

from ..backbones.audio.sound_latents import prepare_sound
from .input_checks import check_inputs, name_input
from .sockets import SOUND, search_words


class LodestarJointSpeech(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarJointSpeech",
            display_name="Joint Speech",
            category="Lodestar/audio",
            description="Speech of any length for LTX-2 and MiniMax H3: their audio VAE encodes it for each chunk, and "
                        "it is held there while the picture is made. The video has the recording that Plan Take was "
                        "given, never this copy.",
            inputs=[
                io.Audio.Input("audio", tooltip="The speech, the same as Plan Take's."),
                io.Vae.Input("audio_vae", extra_dict=SOUND,
                             tooltip="The model's audio VAE: from LTXV Audio VAE Loader, or for MiniMax H3 from Load "
                                     "VAE."),
                io.Float.Input("noise", default=0.0, min=0.0, max=0.2, step=0.001, round=0.0001,
                               tooltip="A noise under this copy of the speech, of full scale. LTX-2 tends to hold the "
                                       "picture still on very clean speech: its users lay about 0.005 under it. The "
                                       "video's sound stays clean."),
                io.Float.Input("seconds_ahead", default=0.0, min=0.0, max=10.0, step=0.1, round=0.01,
                               tooltip="How much of the speech behind a chunk the model is given with it, so that a "
                                       "breath or a turn of the head is prepared. 0: the chunk's own."),
                io.Int.Input("noise_seed", default=0, min=0, max=0xffffffffffffffff,
                             tooltip="Which noise. The same seed gives the same."),
            ],
            outputs=[io.AudioEncoderOutput.Output(display_name="audio_features",
                                                  tooltip="For audio_features of Long Take or One Chunk.")],
            **search_words("ltx", "ltx-2", "minimax h3", "hailuo", "lip sync", "talking head", "audio to video",
                           "audio latent"),
        )

    @classmethod
    @check_inputs
    def execute(cls, audio, audio_vae, noise, seconds_ahead, noise_seed) -> io.NodeOutput:
        with name_input("audio_vae"):
            return io.NodeOutput(prepare_sound(audio, audio_vae, noise, noise_seed, seconds_ahead))
