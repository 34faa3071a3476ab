"""Streams of the rolling fixtures' student in ComfyUI: its own network, sampler and conditions, the pack's memory."""
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import comfy.samplers
import golden
import lodestar.backbones
import tiny_student
import torch
from lodestar.backbones import attach
from lodestar.backbones.written_memory import RECENTS
from lodestar.host.rolling_sampler import Stream, StreamSampler
from lodestar.networks.omniavatar.audio import pack_frames
from lodestar.techniques.rolling_window import Rolling
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.temporal_anchor import TemporalAnchor
from torch import Tensor


@contextmanager
def known() -> Iterator[None]:
    """The student is a family of the pack."""
    families = ("tiny_student.Student", *lodestar.backbones.FAMILIES)
    with (patch.dict(sys.modules, {"lodestar.backbones.tiny_student": tiny_student}),
          patch.object(lodestar.backbones, "FAMILIES", families)):
        yield


def make(fixtures: golden.Fixtures, student, record: dict, anchor=None, stream=None, model=None, others=(), guide=None):
    """(latents of the take in model space, the stream afterwards). `others`: further techniques; `guide`: (model,
    conditioning, its values) -> GUIDER."""
    inputs, tensors = fixtures.load("inputs.safetensors"), fixtures.load(record["file"])
    rolling = Rolling(tuple(record["sigmas"]), record["B"], record["N"], record["renoise"])
    blocks, out = rolling.count_blocks(record["latents"]), student.model.process_latent_out
    picture, latents = out(inputs["picture"]), record["padded_latents"]
    techniques = [TemporalAnchor(record["T"]) if anchor is None else anchor, *others]
    if record["anchor"]:
        techniques.append(StyleAnchor(record["d"] or -1.0, record["reindex"], record["anchor_audio"] == "first_row",
                                      record["in_write"], picture))
    stream = stream or Stream(rolling, blocks, lambda block, level: tensors["noise"][block, level][None])
    rows = torch.cat([inputs["audio"], inputs["audio"][:, -1:].expand(-1, 4 * latents, -1)], 1)[:, :4 * latents - 3]
    audio = pack_frames(rows).transpose(1, 2)[..., None, None]
    values = {"omniavatar_audio": audio, "reference_latents": [picture]}
    guider = (guide or plain)(student if model is None else model, inputs["context"], values)
    guider = attach.guider_at(guider, tuple(techniques), ChunkPosition(), {}, {})
    empty = torch.zeros(1, 16, latents, *picture.shape[3:])
    with torch.inference_mode():
        made = guider.sample(empty, empty, StreamSampler(stream), torch.tensor(record["sigmas"]), disable_pbar=True)
    made = student.model.process_latent_in(made)
    made[:, :, :1] = inputs["picture"]
    return made[:, :, :record["latents"]], stream


def plain(model, text, values, negative=None, cfg=1.0):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[text, values]], [[text if negative is None else negative, values]])
    guider.set_cfg(cfg)
    return guider


def in_order(stream: Stream, part: int, record: dict) -> Tensor:
    """What is remembered at the end, keys (`part` 0) or values: (2, 1, t * S, heads, D) of the first and last block,
    the oldest latent first."""
    emitted, most = record["padded_latents"] - 1, record["T"]
    order = [latent % most for latent in range(max(emitted - most, 0), emitted)]
    slots = stream.memory.kept[RECENTS, "positive 0"]
    blocks = [slots.blocks[index][part].unflatten(1, (most, -1)) for index in (0, -1)]
    return torch.stack([block[:, order].flatten(1, 2) for block in blocks])


def play(fixtures: golden.Fixtures, record: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """The take's latents and, where it remembers any, its last keys and values, beside the fixtures'."""
    tensors = fixtures.load(record["file"])
    with known():
        student = tiny_student.load_student(fixtures.load("weights.safetensors"), fixtures.cases["network"])
        made, stream = make(fixtures, student, record)
    pairs = {"latents": (made, tensors["latents"])}
    writes = sorted(name.removesuffix(".held.key") for name in tensors if name.endswith(".held.key"))
    for last in writes[-1:]:
        pairs |= {f"{last}.held.{which}": (in_order(stream, part, record), tensors[f"{last}.held.{which}"])
                  for part, which in enumerate(("key", "value"))}
    return pairs
