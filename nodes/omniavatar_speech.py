"""OmniAvatar Speech: OmniAvatar's audio features for speech of any length, and the take's sound that fits them."""
from comfy_api.latest import io

from ..backbones.omniavatar.speech import delay, encode_delayed
from .input_checks import check_inputs
from .sockets import search_words


class LodestarOmniAvatarSpeech(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarOmniAvatarSpeech",
            display_name="OmniAvatar Speech",
            category="Lodestar/audio",
            description="Encodes speech of any length as OmniAvatar was trained with it: wav2vec2-base-960h at 25 "
                        "feature frames a second. For Long Take; the second output is the sound for Plan Take.",
            inputs=[
                io.Audio.Input("audio", tooltip="The speech. Without music and noise it moves the lips best."),
                io.AudioEncoder.Input("audio_encoder",
                                      tooltip="From Load Audio Encoder: wav2vec2-base-960h, with normalize on where "
                                              "the file does not say so itself."),
                io.Float.Input("silence_seconds", default=0.3, min=0.0, max=10.0, step=0.1, round=0.01,
                               tooltip="Silence before the speech, so that the picture's mouth has time to open: 0.3 "
                                       "as its authors have it."),
            ],
            outputs=[io.AudioEncoderOutput.Output(display_name="audio_features",
                                                  tooltip="For Long Take's audio_features."),
                     io.Audio.Output(tooltip="The speech behind that silence and the picture's one frame, for Plan "
                                             "Take's audio: then lips and sound agree.")],
            **search_words("omniavatar", "talking head", "avatar", "lip sync", "audio to video", "wav2vec",
                           "speech features"),
        )

    @classmethod
    @check_inputs
    def execute(cls, audio, audio_encoder, silence_seconds) -> io.NodeOutput:
        delayed = delay(audio, silence_seconds)
        return io.NodeOutput(encode_delayed(audio_encoder, delayed), delayed)
