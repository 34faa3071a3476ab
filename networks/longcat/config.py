"""What one LongCat network looks like: read from an official config.json, or inferred from the weights themselves.

Base, Avatar 1.0 and Avatar 1.5 are one network with different sizes; the weights say which.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..packed import Weight


@dataclass(frozen=True)
class AudioConfig:
    """`width`: values per audio slot (layers x channels: 12 x 768 in Avatar 1.0, 5 x 1280 in 1.5). `ratio`: video
    frames per latent after the first. `class_range`, `class_interval`: the speakers' RoPE positions."""
    width: int
    window: int = 5
    intermediate: int = 512
    output: int = 768
    tokens: int = 32
    ratio: int = 4
    prenorm: bool = False
    class_range: int = 24
    class_interval: int = 4

    @property
    def group(self) -> int:
        """Slots of the `ratio` video frames of one latent: both outer halves and every centre."""
        return self.window + self.ratio - 1


@dataclass(frozen=True)
class LongCatConfig:
    """`audio` is None for the base model. `keep_padding`: padded text tokens are zeroed and stay in the attention."""
    hidden: int = 4096
    depth: int = 48
    heads: int = 32
    ffn: int = 11008
    caption: int = 4096
    adaln: int = 512
    frequencies: int = 256
    channels: tuple[int, int] = (16, 16)
    patch: tuple[int, int, int] = (1, 2, 2)
    keep_padding: bool = True
    audio: AudioConfig | None = field(default=None)

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "LongCatConfig":
        """An official config.json. Raises ValueError for another model's."""
        try:
            hidden, audio = json["hidden_size"], None
            if "audio_window" in json:
                audio = AudioConfig(json["audio_block"] * json["audio_channel"], json["audio_window"],
                                    json["intermediate_dim"], json["output_dim"], json["context_tokens"],
                                    json["vae_scale"], json.get("audio_prenorm", False), json.get("class_range", 24),
                                    json.get("class_interval", 4))
            return cls(hidden, json["depth"], json["num_heads"], ffn_width(hidden, json["mlp_ratio"]),
                       json["caption_channels"], json["adaln_tembed_dim"], json["frequency_embedding_size"],
                       (json["in_channels"], json["out_channels"]), tuple(json["patch_size"]),
                       json.get("text_tokens_zero_pad", True), audio)
        except KeyError as error:
            raise ValueError(f"config.json: got no {error}, wanted a LongCat-Video config; it belongs to another "
                             "model") from error

    @classmethod
    def from_weights(cls, weights: Mapping[str, Weight]) -> "LongCatConfig":
        """Inferred from a state dict with the official keys. Raises ValueError naming the key that is missing."""
        def shape(name: str) -> tuple[int, ...]:
            if name not in weights:
                raise ValueError(f"weights: got no {name!r}, wanted a LongCat-Video checkpoint in its official layout")
            return tuple(weights[name].shape)

        hidden, inputs, *patch = shape("x_embedder.proj.weight")
        if len(patch) != 3:
            raise ValueError(f"x_embedder.proj.weight: got {len(patch)} kernel sizes, wanted frames, rows and columns")
        adaln, frequencies = shape("t_embedder.mlp.0.weight")
        depth = 1 + max((int(name.split(".")[1]) for name in weights if name.startswith("blocks.")), default=-1)
        outputs = shape("final_layer.linear.weight")[0] // math.prod(patch)
        audio = audio_from(shape, weights) if any(name.startswith("audio_proj.") for name in weights) else None
        return cls(hidden, depth, hidden // shape("blocks.0.attn.q_norm.weight")[0], shape("blocks.0.ffn.w1.weight")[0],
                   shape("y_embedder.y_proj.0.weight")[1], adaln, frequencies, (inputs, outputs),
                   (patch[0], patch[1], patch[2]), audio=audio)


def audio_from(shape, weights: Mapping[str, Weight]) -> AudioConfig:
    """The audio path's sizes: window and group columns are W and W + 3 slots of the same width, 4 frames a latent."""
    intermediate, columns = shape("audio_proj.proj1.weight")
    grouped = shape("audio_proj.proj1_vf.weight")[1]
    width = (grouped - columns) // 3
    if width < 1 or columns % width:
        raise ValueError(f"audio_proj: got {columns} and {grouped} columns, wanted 5 and 8 slots of one width")
    output = shape("audio_proj.norm.weight")[0]
    return AudioConfig(width, columns // width, intermediate, output, shape("audio_proj.proj3.weight")[0] // output,
                       prenorm="blocks.0.pre_audio_crs_attn_norm.weight" in weights)


def ffn_width(hidden: int, ratio: float) -> int:
    """Inner width of the gated FFN: two thirds of the plain one, rounded up to 256."""
    return 256 * math.ceil(int(2 * (ratio * hidden) / 3) / 256)
