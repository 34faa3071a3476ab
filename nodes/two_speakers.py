"""Two Speakers: two speakers in one picture, together or in turn, each with an audio stream of their own."""
from functools import partial

from comfy_api.latest import io
from torch import Tensor

from ..backbones import recipes
from ..backbones.longcat.speech import AUTO, AVATARS, LARGEST_SEED, encode_streams
from ..backbones.longcat.two_speakers import join_speakers
from ..techniques.audio.recording_digests import sound_marks
from ..techniques.audio.speaker_tracks import MODES
from ..techniques.speaker_masks import box_mask, box_masks, drawn_mask, join_masks, parse_box
from .input_checks import check_inputs, name_input
from .sockets import NOISE_FLOOR, NOISE_SEED, WHICH_AVATAR, search_words

SPEAKERS = 2
PLACE = "Where speaker {} is: left, top, right, bottom, each from 0 to 1 of the picture, such as {}. Empty: {} half."


class LodestarTwoSpeakers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarTwoSpeakers",
            display_name="Two Speakers",
            category="Lodestar/audio",
            description="Two speakers in one picture, each driven by an audio stream of their own: together or in "
                        "turn. Others may be in the picture and not speak; with one recording alone, one of a group "
                        "speaks. For LongCat Avatar, InfiniteTalk and MultiTalk.",
            inputs=[
                io.Image.Input("reference",
                               tooltip="The picture of both, as for Long Take: masks and boxes are on it."),
                io.AudioEncoder.Input("audio_encoder",
                                      tooltip="From Load Audio Encoder: chinese-wav2vec2-base for Avatar 1.0, "
                                              "InfiniteTalk and MultiTalk, whisper-large-v3 for Avatar 1.5."),
                io.Audio.Input("audio_1", optional=True,
                               tooltip="Speech of speaker 1. Left out: speaker 1 gets silence."),
                io.Audio.Input("audio_2", optional=True,
                               tooltip="Speech of speaker 2. Left out: speaker 2 gets silence."),
                io.Combo.Input("mode", options=list(MODES), default="together",
                               tooltip="together: both at once, silence after the shorter one. in turn: speaker 1 "
                                       "first, then speaker 2."),
                io.Mask.Input("mask_1", optional=True, tooltip="Where speaker 1 is, at the picture's size. Or box_1."),
                io.Mask.Input("mask_2", optional=True, tooltip="Where speaker 2 is, at the picture's size. Or box_2."),
                io.String.Input("box_1", default="", tooltip=PLACE.format(1, "0.05, 0.1, 0.45, 0.9", "the left")),
                io.String.Input("box_2", default="", tooltip=PLACE.format(2, "0.55, 0.1, 0.95, 0.9", "the right")),
                io.String.Input("others", default="", multiline=True,
                                tooltip="Boxes of others in the picture, who do not speak, one per line, as in box_1."),
                io.Combo.Input("version", options=[AUTO, *AVATARS, *recipes(SPEAKERS)], default=AUTO,
                               tooltip=f"{WHICH_AVATAR} InfiniteTalk: for it and MultiTalk, from "
                                       "chinese-wav2vec2-base."),
                io.Boolean.Input("noise_floor", default=True, tooltip=NOISE_FLOOR),
                io.Int.Input("noise_floor_seed", default=0, min=0, max=LARGEST_SEED, tooltip=NOISE_SEED),
            ],
            outputs=[io.AudioEncoderOutput.Output(display_name="audio_features",
                                                   tooltip="For Long Take's audio_features."),
                     io.Audio.Output(display_name="audio",
                                     tooltip="Both recordings as one sound track, for Plan Take.")],
            **search_words("talking", "two people", "dialogue", "conversation", "multi person", "lip sync", "avatar"),
        )

    @classmethod
    @check_inputs
    def execute(cls, reference, audio_encoder, mode, box_1, box_2, others, version, noise_floor, noise_floor_seed,
                audio_1=None, audio_2=None, mask_1=None, mask_2=None) -> io.NodeOutput:
        height, width = reference.shape[1:3]
        masks = places(height, width, (mask_1, mask_2), (box_1, box_2), others)
        tracks, mix = join_speakers(mode, audio_1, audio_2)
        if masks.shape[1] > 3:     # others get an audio stream of silence
            tracks.append(tracks[0].new_zeros(len(tracks[0])))
        longcat = partial(encode_streams, version=version, noise_seed=noise_floor_seed if noise_floor else None)
        own = recipes(SPEAKERS).get(version)
        features = (longcat if own is None else own.encode)(audio_encoder, tracks, masks)
        return io.NodeOutput({**features, "sound_marks": sound_marks(mix)}, mix)


def places(height: int, width: int, masks: tuple, boxes: tuple[str, str], others: str) -> Tensor:
    """The masks (1, 3 + others, height, width) of everybody in the picture, from the inputs that say where they are."""
    first, second = (place(mask, box, speaker, height, width)
                     for speaker, (mask, box) in enumerate(zip(masks, boxes, strict=True), start=1))
    if (first is None) != (second is None):
        given, missing = (1, 2) if second is None else (2, 1)
        raise ValueError(f"mask_{missing}, box_{missing}: got nothing, but speaker {given} has a place. Give one to "
                         "both speakers, or to neither (then each has half of the picture)")
    with name_input("others"):
        silent = [parse_box(line, height, width) for line in others.splitlines() if line.strip()]
        if first is None or second is None:
            return box_masks(height, width, others=silent)[None]
        return join_masks(first, second, *(box_mask(other, height, width) for other in silent))[None]


def place(mask: Tensor | None, box: str, speaker: int, height: int, width: int) -> Tensor | None:
    """One speaker's mask (height, width) of 0 and 1, from either; None where there is neither."""
    if mask is not None and box.strip():
        raise ValueError(f"mask_{speaker}, box_{speaker}: got both, wanted one of them; empty the box or unplug the "
                         "mask")
    if mask is not None:
        with name_input(f"mask_{speaker}"):
            return drawn_mask(mask, height, width)
    with name_input(f"box_{speaker}"):
        return box_mask(parse_box(box, height, width), height, width) if box.strip() else None
