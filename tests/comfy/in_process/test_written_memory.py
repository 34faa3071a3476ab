"""A stream on a causal student in ComfyUI, against the rolling fixtures: what it remembers is what it saw."""
import sys
from pathlib import Path

import comfy.samplers
import golden
import lodestar.backbones
import pytest
import tiny_student
import torch
from lodestar.backbones import attach
from lodestar.backbones.written_memory import RECENTS, WrittenMemory
from lodestar.host.rolling_sampler import Stream, StreamSampler
from lodestar.networks.omniavatar.audio import pack_frames
from lodestar.techniques.rolling_window import Rolling
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.temporal_anchor import TemporalAnchor

FIXTURES = golden.Fixtures(Path(__file__).resolve().parents[2] / "golden" / "rolling")
RECORDS = {record["name"]: record for record in FIXTURES.cases["cases"]}


@pytest.fixture(scope="module")
def student():
    return tiny_student.load_student(FIXTURES.load("weights.safetensors"), FIXTURES.cases["network"])


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(sys.modules, "lodestar.backbones.tiny_student", tiny_student)
    monkeypatch.setattr(lodestar.backbones, "FAMILIES", ("tiny_student.Student", *lodestar.backbones.FAMILIES))


def make(student, record, anchor=None, stream=None, model=None):
    """(latents of the take in model space, the stream afterwards)."""
    inputs, tensors = FIXTURES.load("inputs.safetensors"), FIXTURES.load(record["file"])
    rolling = Rolling(tuple(record["sigmas"]), record["B"], record["N"], record["renoise"])
    blocks, out = rolling.count_blocks(record["latents"]), student.model.process_latent_out
    picture, latents = out(inputs["picture"]), record["padded_latents"]
    techniques = [TemporalAnchor(record["T"]) if anchor is None else anchor]
    if record["anchor"]:
        techniques.append(StyleAnchor(record["d"] or -1.0, record["reindex"], record["anchor_audio"] == "first_row",
                                      record["in_write"], picture))
    stream = stream or Stream(rolling, blocks, lambda block, level: tensors["noise"][block, level][None])
    rows = torch.cat([inputs["audio"], inputs["audio"][:, -1:].expand(-1, 4 * latents, -1)], 1)[:, :4 * latents - 3]
    audio = pack_frames(rows).transpose(1, 2)[..., None, None]
    guider = comfy.samplers.CFGGuider(student if model is None else model)
    values = {"omniavatar_audio": audio, "reference_latents": [picture]}
    guider.set_conds([[inputs["context"], values]], [[inputs["context"], values]])
    guider.set_cfg(1.0)
    guider = attach.guider_at(guider, tuple(techniques), ChunkPosition(), {}, {})
    empty = torch.zeros(1, 16, latents, *picture.shape[3:])
    with torch.inference_mode():
        made = guider.sample(empty, empty, StreamSampler(stream), torch.tensor(record["sigmas"]), disable_pbar=True)
    made = student.model.process_latent_in(made)
    made[:, :, :1] = inputs["picture"]
    return made[:, :, :record["latents"]], stream


def apart(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("name", RECORDS)
def test_a_stream_has_the_fixtures_latents_and_keys(student, name):
    record = RECORDS[name]
    tensors = FIXTURES.load(record["file"])
    made, stream = make(student, record)
    assert apart(made, tensors["latents"]) < 1e-5


def test_what_it_remembers_are_the_fixtures_keys(student):
    record = RECORDS["two_passes_ahead_tail"]
    tensors = FIXTURES.load(record["file"])
    _, stream = make(student, record)
    last = max(name.removesuffix(".held.key") for name in tensors if name.endswith(".held.key"))
    slots = stream.memory.kept[RECENTS, "positive 0"]
    for part, name in enumerate(("key", "value")):
        oldest_first = in_order(slots, part, record)
        assert apart(oldest_first, tensors[f"{last}.held.{name}"]) < 1e-5


def in_order(slots, part, record):
    """(2, 1, T * S, heads, D) of the first and last block, the oldest latent first."""
    emitted = record["padded_latents"] - 1
    order = [latent % record["T"] for latent in range(emitted - record["T"], emitted)]
    blocks = [slots.blocks[index][part].unflatten(1, (record["T"], -1)) for index in (0, -1)]
    return torch.stack([block[:, order].flatten(1, 2) for block in blocks])


@pytest.mark.parametrize(("offload", "precision", "most"), [("RAM", "model", 0.0), ("VRAM", "fp8", 0.05),
                                                            ("RAM", "fp8", 0.05)])
def test_where_it_is_kept_changes_nothing_and_fp8_little(student, offload, precision, most):
    record = RECORDS["two_passes_ahead_tail"]
    wanted, whole = make(student, record)
    made, stream = make(student, record, TemporalAnchor(record["T"], offload, precision))
    assert apart(made, wanted) <= most
    assert stream.memory.bytes <= whole.memory.bytes * (1 if precision == "model" else 0.3)


def test_a_stream_goes_on_from_its_state_as_if_it_had_not_been_broken(student):
    """Also where it is kept in RAM or in fp8; nothing of the picture is in the state."""
    record = RECORDS["two_passes_ahead_tail"]
    for anchor in (TemporalAnchor(record["T"]), TemporalAnchor(record["T"], "RAM", "fp8")):
        whole, stream = make(student, record, anchor)
        noise_of, rolling, blocks = stream.noise_of, stream.rolling, stream.blocks
        cut = 2
        first = Stream(rolling, blocks, noise_of, windows=rolling.windows_of(range(0, cut)))
        begun, _ = make(student, record, anchor, first)
        memory = WrittenMemory(anchor)
        memory.restore({name: tensor.clone() for name, tensor in first.memory.state().items()})
        assert all(name.startswith("memory/positive 0/") for name in first.memory.state())
        rest = Stream(rolling, blocks, noise_of, windows=rolling.windows_of(range(cut, blocks)), held=first.held,
                      memory=memory)
        ended, _ = make(student, record, anchor, rest)
        place = 1 + cut * record["B"]
        assert torch.equal(torch.cat([begun[:, :, :place], ended[:, :, place:]], 2), whole)


def test_it_is_as_large_after_many_blocks_as_after_few(student):
    record = RECORDS["two_passes_ahead_tail"]
    rolling = Rolling(tuple(record["sigmas"]), record["B"], record["N"], record["renoise"])
    noise = torch.zeros(1, 16, record["B"], 4, 6)
    sizes = []
    for blocks in (5, 25):
        latents = 1 + blocks * record["B"]
        _, stream = make(student, {**record, "latents": latents, "padded_latents": latents}, None,
                         Stream(rolling, blocks, lambda block, level: noise))
        sizes.append(stream.memory.bytes)
    assert sizes[0] == sizes[1]
