"""Audio Features: speech of any length to speech-encoder features, in the memory of one segment."""
from comfy_api.latest import io

from ..backbones import recipes
from ..backbones.audio.encoder import as_speech_encoder, encode_speech
from ..backbones.audio.resampler import resample_speech
from ..techniques.audio.recording_digests import sound_marks
from ..techniques.audio.segments import select_layers
from .input_checks import check_inputs, try_reading
from .sockets import search_words

CORE = "core"


class LodestarAudioFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarAudioFeatures",
            display_name="Audio Features",
            category="Lodestar/audio",
            description="Encodes speech of any length with wav2vec2, hubert or whisper in overlapping segments: "
                        "bounded memory, no 30-second limit, one pass where the speech fits one segment.",
            inputs=[
                io.Audio.Input("audio", tooltip="The speech: any length, 8 to 192 kHz, any number of channels (they "
                                                "are averaged)."),
                io.AudioEncoder.Input("audio_encoder", tooltip="From Load Audio Encoder, Lodestar's or core's."),
                io.String.Input("layers", default="all",
                                tooltip="Which hidden layers to keep: all, last, or indices and ranges such as 0,5,-1 "
                                        "or 0-24. Wan S2V, HuMo and InfiniteTalk want all of them."),
                io.Float.Input("window_seconds", default=30.0, min=2.0, max=3600.0, step=0.5,
                               tooltip="Length of a segment, encoded at once. More needs more memory; whisper always "
                                       "takes 30 s."),
                io.Float.Input("overlap_seconds", default=4.0, min=0.0, max=60.0, step=0.5,
                               tooltip="Shared by neighbouring segments and cut in the middle. Below 2.6 s the "
                                       "features of wav2vec2 change at the seams."),
                io.Combo.Input("trained_as", options=[CORE, *recipes()], default=CORE, optional=True,
                               tooltip="core: every layer at the encoder's own rate, as ComfyUI's node makes them. "
                                       "InfiniteTalk: as it and MultiTalk were trained, at -23 LUFS and 25 Hz, brought "
                                       "to that rate before the transformer. HuMo: whisper in stretches of 30 s, five "
                                       "groups of layers at 25 Hz. With these, layers and segments are their own."),
            ],
            outputs=[io.AudioEncoderOutput.Output(display_name="audio_features",
                                                   tooltip="The kept layers with their rate, for Long Take and for "
                                                          "core's nodes.")],
            **search_words("speech features", "speech encoder", "wav2vec", "hubert", "whisper", "lip sync",
                           "audio to video"),
        )

    @classmethod
    def validate_inputs(cls, layers="all") -> bool | str:
        said = try_reading(select_layers, layers if isinstance(layers, str) else "all")
        return said if said is True else f"layers: {said}"

    @classmethod
    @check_inputs
    def execute(cls, audio, audio_encoder, layers, window_seconds, overlap_seconds, trained_as=CORE) -> io.NodeOutput:
        encoder = as_speech_encoder(audio_encoder)
        own = recipes().get(trained_as)
        if own is not None:
            features = own.encode(encoder, [resample_speech(audio)])
        else:
            features = encode_speech(encoder, audio, layers, window_seconds, overlap_seconds)
        return io.NodeOutput({**features, "sound_marks": sound_marks(audio)})
