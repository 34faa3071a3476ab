"""LongCat Speech: audio features for LongCat-Video-Avatar 1.0 and 1.5, of any length, in the memory of one segment."""
from comfy_api.latest import io

from ..backbones.audio.resampler import resample_speech
from ..backbones.longcat.speech import AUTO, AVATARS, LARGEST_SEED, encode_streams
from ..techniques.audio.recording_digests import sound_marks
from .input_checks import check_inputs
from .sockets import NOISE_FLOOR, NOISE_SEED, WHICH_AVATAR, search_words


class LodestarLongCatSpeech(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarLongCatSpeech",
            display_name="LongCat Speech",
            category="Lodestar/audio",
            description="Encodes speech of any length to the audio features that LongCat Avatar was trained on: with "
                        "chinese-wav2vec2-base for 1.0, with whisper-large-v3 for 1.5. For Long Take.",
            inputs=[
                io.Audio.Input("audio",
                               tooltip="The speech. Lip sync is best without music and noise: connect separated vocals "
                                       "here, and the full mix to Plan Take's soundtrack."),
                io.AudioEncoder.Input("audio_encoder",
                                      tooltip="From Load Audio Encoder: chinese-wav2vec2-base for Avatar 1.0, "
                                              "whisper-large-v3 for 1.5, log-mel for the puppet."),
                io.Combo.Input("version", options=[AUTO, *AVATARS], default=AUTO, tooltip=WHICH_AVATAR),
                io.Boolean.Input("noise_floor", default=True, tooltip=NOISE_FLOOR),
                io.Int.Input("noise_floor_seed", default=0, min=0, max=LARGEST_SEED, tooltip=NOISE_SEED),
            ],
            outputs=[io.AudioEncoderOutput.Output(display_name="audio_features",
                                                   tooltip="For Long Take's audio_features.")],
            **search_words("talking head", "avatar", "lip sync", "audio to video", "wav2vec", "whisper",
                           "speech features"),
        )

    @classmethod
    @check_inputs
    def execute(cls, audio, audio_encoder, version, noise_floor, noise_floor_seed) -> io.NodeOutput:
        seed = noise_floor_seed if noise_floor else None
        features = encode_streams(audio_encoder, [resample_speech(audio)], version=version, noise_seed=seed)
        return io.NodeOutput({**features, "sound_marks": sound_marks(audio)})
