"""What travels on Lodestar's own wires, and the words that several nodes share."""
from comfy_api.latest import io

from ..pipelines.take.plan import Take

PLAN = io.Custom("LODESTAR_PLAN")
DRIVING = io.Custom("LODESTAR_DRIVING")
CLIPS = io.Custom("LODESTAR_CLIPS")     # a pipelines.training.clip_store.ClipStore
LORA_MODEL, LOSS_MAP = io.Custom("LORA_MODEL"), io.Custom("LOSS_MAP")    # of core's own trainer
BOUNDING_BOX = io.Custom("BOUNDING_BOX")     # not in ComfyUI 0.7.0
LARGEST_SIDE, SIDE_STEP = 16384, 16   # pixels
LONGEST_CHUNK = 4097   # pixel frames
SEVERAL = {"pictures": 9}   # of an IMAGE each picture counts; so many are looked at, one more than any family takes
SOUND = {"sound": True}   # of a VAE whose pictures are sound: in ComfyUI 0.7 it is another class
WHICH_AVATAR = "Which LongCat Avatar this is for. auto: as the encoder says, 1.0 for wav2vec2, 1.5 for whisper."
NEAREST_BUCKET = ("For models that were trained at a list of sizes (LongCat): takes the nearest of them. Off: the size "
                  "stays, and what the node shows says which is the nearest.")
NOISE_FLOOR = "Only for 1.0: a faint noise under the speech, as in training. Off, pauses are digital silence."
NOISE_SEED = "Which noise. The same seed gives the same features."


def opening_of(audio: dict, seconds: float) -> dict:
    """The first `seconds` of the speech, all of it for 0."""
    waveform, rate = audio["waveform"], audio["sample_rate"]
    return {"waveform": waveform[..., :max(round(seconds * rate), 1)] if seconds else waveform, "sample_rate": rate}


def size_of(take: Take | None, width: int, height: int) -> tuple[int, int]:
    """What was typed, or for 0 and 0 the plan's. Raises ValueError where that is no size."""
    if not width and not height and take is not None:
        return take.plan.width, take.plan.height
    if not width or not height:
        raise ValueError(f"width, height: got {width} and {height}; type both, or connect the plan of Plan Take and "
                         "leave both 0 for its size")
    return width, height


def sentences(lines: list[str]) -> str:
    """Lines as a node shows them: Nodes 2.0 breaks none, so each ends with a full stop. Empty ones are left out."""
    return "\n".join(f"{line[:1].upper()}{line[1:]}." for line in lines if line)


def search_words(*words: str) -> dict[str, list[str]]:
    """For **: what people type into the node search to find this one. ComfyUI 0.7.0 has no such field."""
    return {"search_aliases": list(words)} if "search_aliases" in io.Schema.__dataclass_fields__ else {}
