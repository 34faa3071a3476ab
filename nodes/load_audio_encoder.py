"""Load Audio Encoder: the wav2vec2, hubert and whisper models in models/audio_encoders, files and folders."""
from comfy_api.latest import io

from ..backbones.audio.encoder import NORMALIZE, load_audio_encoder, log_mel
from ..backbones.audio.encoder_files import LOG_MEL, encoder_names, encoder_path
from .input_checks import check_inputs
from .sockets import search_words


class LodestarLoadAudioEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarLoadAudioEncoder",
            display_name="Load Audio Encoder (Lodestar)",
            category="Lodestar/loaders",
            description="Loads a speech encoder: what ComfyUI's own loader knows, and through transformers any "
                        "wav2vec2, hubert or whisper in the folder layout or with its config inside the file.",
            inputs=[
                io.Combo.Input("audio_encoder_name", options=encoder_names(),
                               tooltip="From models/audio_encoders: a weights file, or a folder with config.json and "
                                       "model.safetensors or pytorch_model.bin. log-mel needs no file: "
                                       "the puppet's audio features."),
                io.Combo.Input("normalize", options=list(NORMALIZE), default="auto",
                               tooltip="Zero mean and unit variance before wav2vec2. auto: as the model's files say; a "
                                       "bare 768-wide file is taken for the Chinese base model (off). Set on for a "
                                       "bare wav2vec2-base-960h. Whisper has no such step."),
            ],
            outputs=[io.AudioEncoder.Output(tooltip="For Audio Features, or core's Audio Encoder Encode.")],
            **search_words("wav2vec", "wav2vec2", "hubert", "whisper", "speech encoder", "lip sync"),
        )

    @classmethod
    @check_inputs
    def execute(cls, audio_encoder_name, normalize) -> io.NodeOutput:
        if audio_encoder_name == LOG_MEL:
            return io.NodeOutput(log_mel())
        return io.NodeOutput(load_audio_encoder(encoder_path(audio_encoder_name), normalize))
