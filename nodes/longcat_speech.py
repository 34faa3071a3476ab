"""LongCat Speech: what LongCat-Video-Avatar 1.0 and 1.5 hear, for speech of any length in the memory of one window."""
from comfy_api.latest import io

from ..backbones.longcat_speech import encode_voices, heard
from .sockets import hearing_inputs


class LodestarLongCatSpeech(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarLongCatSpeech",
            display_name="LongCat Speech",
            category="Lodestar/audio",
            description="Encodes speech of any length as LongCat Avatar was trained to hear it: with "
                        "chinese-wav2vec2-base for 1.0, with whisper-large-v3 for 1.5. For Long Take.",
            inputs=[
                io.Audio.Input("audio", tooltip="The speech. Without music and noise it moves the lips best: separated "
                                                "vocals come here, the full mix goes to Plan Take."),
                *hearing_inputs(),
            ],
            outputs=[io.AudioEncoderOutput.Output(tooltip="For Long Take's audio_features.")],
        )

    @classmethod
    def execute(cls, audio, audio_encoder, version, noise_floor, noise_floor_seed) -> io.NodeOutput:
        return io.NodeOutput(encode_voices(audio_encoder, [heard(audio)], version, noise_floor_seed if noise_floor else None))
