"""What comes over ComfyUI's wires, from whichever pack, made into the one kind that Lodestar computes with.

Called once, at a door: by `nodes/input_checks.py` for every input of every node, and by an encoder of ours that core's
node calls. Whole numbers are scaled by their range, a missing batch axis is added, everything comes to the CPU; what
would be a guess is refused. A ValueError says what came and what was wanted; the node puts the input's name in front.
"""
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Number, Real
from typing import Any

import torch
from torch import Tensor

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000     # Hz
MOST_CHANNELS = 64
LOUDEST = 16.0          # of full scale, 24 dB over it: beyond are whole numbers kept as floats
FULL_SCALE = {torch.int8: 2 ** 7, torch.int16: 2 ** 15, torch.int32: 2 ** 31}
OVERSHOOT = 0.5         # how far pixels may lie outside 0..1: resampling overshoots, another scale lies farther off
LONGEST_SHOWN = 100     # letters of a wrong value in an error
SMALLEST_PICTURE = 8    # pixels; below this there is nothing to enlarge
LEFTOVER = 0.01         # of the largest sigma: so little noise at the end cannot be seen
OPENING = 0.95          # of the largest sigma: from there on a schedule begins with noise alone; halves with a shift
                        # of 12 begin at 0.92


@contextmanager
def name_input(name: str) -> Iterator[None]:
    """Puts the input's name before what is said of its value."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def describe(value: Any) -> str:
    """A value of the wrong kind, in a few words."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, str | Number):
        text = repr(value)
        return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return f"a {type(value).__name__}"


def is_real(value: Any) -> bool:
    """Whether it is a number that floats are compared with: Python's and NumPy's, no bool, no tensor."""
    return isinstance(value, Real) and not isinstance(value, bool)


def whole_number(value: Any, least: int, most: int, step: int = 1) -> int:
    """An int, or a float that is one, from `least` to `most` in steps of `step`."""
    wanted = f"a {'whole number' if step == 1 else f'multiple of {step}'} from {least} to {most}"
    if not is_real(value) or not float(value).is_integer():
        raise ValueError(f"got {describe(value)}, wanted {wanted}")
    number = int(value)
    if not least <= number <= most or number % step:
        nearest = min(max(round(number / step) * step, least), most)
        raise ValueError(f"got {number}, wanted {wanted}, such as {nearest}")
    return number


def real_number(value: Any, least: float, most: float) -> float:
    """A finite number from `least` to `most`."""
    if not is_real(value) or not least <= value <= most:    # nor NaN
        raise ValueError(f"got {describe(value)}, wanted a number from {least:g} to {most:g}")
    return float(value)


# ---------------------------------------------------------------- sound

def audio_clip(audio: Any) -> dict[str, Any]:
    """AUDIO -> {"waveform": (1, channels, samples) float32 on the CPU, full scale 1, "sample_rate": Hz}.

    (samples) and (channels, samples) are one clip; whole numbers are scaled by their range. Silence is fine.
    """
    if audio is None:
        raise ValueError("got nothing: the video has no sound, or the node before gave none. Connect one that has, "
                         "such as Load Audio")
    if not isinstance(audio, Mapping) or not {"waveform", "sample_rate"} <= set(audio):
        raise ValueError(f"got {describe(audio)}, wanted AUDIO with a waveform and a sample_rate, as Load Audio makes")
    rate, waveform = sample_rate(audio["sample_rate"]), audio["waveform"]
    if not isinstance(waveform, Tensor):
        raise ValueError(f"got a waveform that is {describe(waveform)}, wanted a tensor (1, channels, samples)")
    came = tuple(waveform.shape)
    if waveform.ndim in (1, 2):
        waveform = waveform.reshape(1, -1, came[-1])
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise ValueError(f"got a waveform of shape {came}, wanted one clip (1, channels, samples); pass one clip at a "
                         "time")
    if not waveform.numel():
        raise ValueError("got 0 samples, wanted sound; check the trim or the file before this node")
    if waveform.shape[1] > MOST_CHANNELS:
        raise ValueError(f"got a waveform of shape {came}, which is {waveform.shape[1]} channels, wanted (1, channels, "
                         f"samples) with at most {MOST_CHANNELS}; exchange its axes")
    return {"waveform": scaled_samples(waveform).cpu(), "sample_rate": rate}


def sample_rate(rate: Any) -> int:
    if isinstance(rate, Tensor) and rate.numel() == 1:
        rate = rate.item()
    if not is_real(rate) or not float(rate).is_integer():
        raise ValueError(f"got a sample rate of {describe(rate)}, wanted {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"got a sample rate of {int(rate)} Hz, wanted {LOWEST_RATE} to {HIGHEST_RATE}; resample it")
    return int(rate)


def scaled_samples(waveform: Tensor) -> Tensor:
    """Samples of any kind as float32 whose full scale is 1."""
    if waveform.dtype in FULL_SCALE:
        return waveform.float() / FULL_SCALE[waveform.dtype]
    if waveform.dtype == torch.uint8:
        return (waveform.float() - 128) / 128
    if not waveform.is_floating_point():
        raise ValueError(f"got samples of {describe(waveform)}, wanted floating point from -1 to 1, or whole numbers "
                         "of 8, 16 or 32 bits")
    waveform = waveform.float() if waveform.dtype.itemsize < 4 else waveform
    loudest = loudness_peak(waveform)
    if not math.isfinite(loudest):
        raise ValueError("got NaN or infinite samples, wanted finite ones; the file or the node that made it is "
                         "broken, export it again")
    if loudest > LOUDEST:
        raise ValueError(f"got samples up to {loudest:g}, wanted -1 to 1: whole numbers kept as floats, it seems. "
                         "Divide them by their full scale (32768 for 16 bits), or normalise the sound")
    return waveform.float()


def loudness_peak(waveform: Tensor) -> float:
    """The largest sample without its sign, NaN where one is NaN; without a copy of the whole clip."""
    return float(torch.stack(waveform.aminmax()).abs().max())


def speech_features(features: Any) -> dict[str, Any]:
    """An AUDIO_ENCODER_OUTPUT as it is, where it is one: layers (1, steps, width) of one shape, for every audio
    stream."""
    if not isinstance(features, Mapping) or not ({"audio_streams", "encoded_audio_all_layers"} & set(features)):
        raise ValueError(f"got {describe(features)}, wanted speech features, as Audio Features or LongCat Speech make")
    for stream in features.get("audio_streams") or (features["encoded_audio_all_layers"],):
        if not isinstance(stream, Sequence) or not stream or not all(isinstance(layer, Tensor) for layer in stream):
            raise ValueError(f"got layers that are {describe(stream)}, wanted tensors (1, steps, width). Encode again")
        shapes = {tuple(layer.shape) for layer in stream}
        shape = shapes.pop()
        if shapes or len(shape) != 3 or shape[0] != 1 or 0 in shape or not stream[0].is_floating_point():
            raise ValueError(f"got layers such as {describe(stream[0])}, wanted all of one shape (1, steps, width), "
                             "floating point. Encode one clip at a time")
    rate = features.get("rate_hz", 1.0)
    if not is_real(rate) or not 0 < rate < math.inf:
        raise ValueError(f"got a rate_hz of {describe(rate)}, wanted the steps of the features in a second")
    return dict(features)


# ---------------------------------------------------------------- pictures

def first_pictures(image: Any, most: int = 1) -> Tensor:
    """The first pictures of an IMAGE, (1..most, H, W, 3 or 4) float32 about 0..1. (H, W, 3 or 4) is one; bytes are
    scaled. What is in any but the first is for whoever uses it to check."""
    if not isinstance(image, Tensor):
        raise ValueError(f"got {describe(image)}, wanted a picture, as Load Image gives")
    came, picture = tuple(image.shape), image[None] if image.ndim == 3 and image.shape[-1] in (3, 4) else image
    if picture.ndim != 4 or not picture.shape[0] or picture.shape[-1] not in (3, 4) \
            or min(picture.shape[1:3]) < SMALLEST_PICTURE:
        raise ValueError(f"got shape {came}, wanted (pictures, height, width, 3 or 4 channels), at least "
                         f"{SMALLEST_PICTURE} pixels each way. Load a picture of the person")
    first = unit_values(picture[:1], "pixels", "load the picture again")
    others = picture[1:most].cpu().float() / (255 if picture.dtype == torch.uint8 else 1)
    return torch.cat([first, others])


def first_mask(mask: Any) -> Tensor:
    """The first mask of a MASK, (1, H, W) float32 about 0..1."""
    return all_masks(mask[:1] if isinstance(mask, Tensor) and mask.ndim > 2 else mask)


def all_masks(mask: Any) -> Tensor:
    """Every mask of a MASK, (T, H, W) float32 about 0..1. (H, W) is one; bytes are scaled."""
    if not isinstance(mask, Tensor):
        raise ValueError(f"got {describe(mask)}, wanted a mask, as Load Image gives")
    came, found = tuple(mask.shape), mask[None] if mask.ndim == 2 else mask
    if found.ndim == 4:
        found = found[:, 0] if found.shape[1] == 1 else found[..., 0] if found.shape[3] == 1 else found
    if found.ndim != 3 or 0 in found.shape:
        raise ValueError(f"got shape {came}, wanted (masks, height, width)")
    if not found.is_floating_point() and found.numel() and int(found.max()) <= 1:     # 0 and 1 of any kind
        found = found.float()
    return unit_values(found, "values", "draw the mask again")


def bounding_boxes(value: Any) -> list[tuple[float, float, float, float] | None]:
    """Core's bounding boxes: one, one for each frame, or for each frame a list, of which the largest counts. As (left,
    top, right, bottom) in pixels, None for a frame without one."""
    frames = [value] if isinstance(value, Mapping) else value
    if not isinstance(frames, Sequence) or isinstance(frames, str) or not frames:
        raise ValueError(f"got {describe(value)}, wanted a MASK, or boxes as core's face landmarker gives them")
    return [largest_box([frame] if isinstance(frame, Mapping) else frame) for frame in frames]


def largest_box(boxes: Any) -> tuple[float, float, float, float] | None:
    sides, corners = ("x", "y", "width", "height"), []
    for box in boxes if isinstance(boxes, Sequence) else [boxes]:
        if not isinstance(box, Mapping) or not all(is_real(box.get(side)) for side in sides):
            raise ValueError(f"got {describe(box)}, wanted a box with x, y, width and height in pixels")
        x, y, width, height = (float(box[side]) for side in sides)
        if width > 0 and height > 0:
            corners.append((x, y, x + width, y + height))
    return max(corners, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)


def unit_values(values: Tensor, what: str, advice: str) -> Tensor:
    """Pixels or mask values as float32 about 0..1, on the CPU."""
    if values.dtype == torch.uint8:
        return values.cpu().float() / 255
    if not values.is_floating_point():
        raise ValueError(f"got {describe(values)}, wanted {what} of floating point from 0 to 1, or bytes")
    values = values.cpu().float()
    least, most = (float(end) for end in values.aminmax())
    if not math.isfinite(least + most):
        raise ValueError(f"got NaN or infinite {what}. The node that made them is broken; {advice}")
    if least < -OVERSHOOT or most > 1 + OVERSHOOT:
        raise ValueError(f"got {what} from {least:g} to {most:g}, wanted 0 to 1; scale them (0 to 255 by 1/255)")
    return values


# ---------------------------------------------------------------- what samplers take

def latent(value: Any) -> dict[str, Any]:
    """A LATENT whose samples (B, C, h, w) or (B, C, frames, h, w) are there and finite, as float32 on the CPU."""
    samples = value.get("samples") if isinstance(value, Mapping) else None
    if not isinstance(samples, Tensor) or not samples.is_floating_point() or samples.ndim not in (4, 5):
        raise ValueError(f"got {describe(value if samples is None else samples)}, wanted LATENT samples (1, channels, "
                         "frames, height, width), as VAE Encode gives")
    if 0 in samples.shape:
        raise ValueError(f"got latents of shape {tuple(samples.shape)}, which hold nothing; encode the picture again")
    if not samples.isfinite().all():
        raise ValueError("got NaN or infinite latents. The node that made them is broken; encode the picture again")
    return {**value, "samples": samples.cpu().float()}


def conditioning(value: Any) -> Sequence:
    """A CONDITIONING as it is, where it is one and not empty."""
    wanted = "wanted CONDITIONING, as CLIP Text Encode or Blank Prompt gives"
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"got {describe(value)}, {wanted}")
    if not value:
        raise ValueError(f"got an empty conditioning, {wanted}")
    for entry in value:
        if not isinstance(entry, Sequence) or len(entry) != 2 or not isinstance(entry[1], Mapping):
            raise ValueError(f"got {describe(entry)} in it, {wanted}")
        check_text(entry[0])
    return value


def check_text(text: Any) -> None:
    """ValueError where an encoded prompt (1, tokens, width) is none."""
    if not isinstance(text, Tensor) or not text.is_floating_point() or text.ndim != 3 or 0 in text.shape:
        raise ValueError(f"got {describe(text)} as the text, wanted a tensor (1, tokens, width)")
    if not text.isfinite().all():
        raise ValueError("got text of NaN or infinite numbers. The text encoder is broken, or its file; load another")


def sigmas(values: Any) -> Tensor:
    """SIGMAS as float32 on the CPU: (steps + 1), finite, from 0 up, never rising."""
    if not isinstance(values, Tensor) or values.ndim != 1 or values.is_complex():
        raise ValueError(f"got {describe(values)}, wanted one row of sigmas, as BasicScheduler gives")
    schedule = values.cpu().float()
    if len(schedule) < 2:
        raise ValueError(f"got {len(schedule)} values, wanted at least 2 (one step)")
    if not schedule.isfinite().all() or schedule.min() < 0:
        raise ValueError("got a schedule with NaN, infinite or negative sigmas. The node that made it is broken; "
                         "connect BasicScheduler")
    rises = (schedule[1:] > schedule[:-1]).nonzero().flatten().tolist()
    if rises:
        place = rises[0]
        raise ValueError(f"got sigmas that rise from {schedule[place]:g} to {schedule[place + 1]:g}, wanted a schedule "
                         "that falls to 0 (a flipped one, it seems)")
    return schedule


def check_end(schedule: Tensor, largest: float) -> None:
    """ValueError where `sigmas` leave noise behind."""
    if (last := float(schedule[-1])) > LEFTOVER * largest:
        raise ValueError(f"got a schedule that ends at {last:g}, wanted 0: the video would keep that much noise. "
                         "Connect a whole schedule, not the first half of a split one")


def check_partial_schedule(schedule: Tensor, largest: float) -> None:
    """ValueError where `sigmas` begin with noise alone, which forgets the video that came, or do not end at 0."""
    check_end(schedule, largest)
    if (first := float(schedule[0])) >= OPENING * largest:
        raise ValueError(f"got a schedule that begins at {first:g}, which is noise alone and forgets the video; wanted "
                         "one that begins at about half. Connect LongCat Schedule with kind refine")


def check_whole_schedule(schedule: Tensor, largest: float) -> None:
    """ValueError where `sigmas` are not a whole run from the model's `largest` sigma, which is noise alone, to 0."""
    first = float(schedule[0])
    check_end(schedule, largest)
    if first < OPENING * largest:
        raise ValueError(f"got a schedule that begins at {first:g}, wanted {largest:g}: every chunk begins as noise "
                         "alone. Connect a whole schedule with a denoise of 1, not the second half of a split one")
    if first > largest / OPENING:
        raise ValueError(f"got a schedule that begins at {first:g}, wanted {largest:g}: it was made for another kind "
                         "of model. Connect BasicScheduler with this model")
