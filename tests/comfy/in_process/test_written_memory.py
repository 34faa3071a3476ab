"""A stream on a causal student in ComfyUI, against the rolling fixtures: what it remembers is what it saw."""
from fractions import Fraction
from functools import partial
from pathlib import Path

import golden
import golden_rolling
import pytest
import rolling_streams
import tiny_student
import torch
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from draws import random
from families import Family, FamilyChunk
from lodestar.backbones import attach
from lodestar.backbones.speech_guider import guide_speech
from lodestar.backbones.written_memory import RECENTS, WrittenMemory
from lodestar.host.rolling_sampler import Stream
from lodestar.host.stream_note import cache_bytes, describe_stream
from lodestar.pipelines.take import plan as plans
from lodestar.pipelines.take.plan import plan_take
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.reference_tokens import Tokens
from lodestar.techniques.rolling_window import Rolling, roll
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.temporal_anchor import TemporalAnchor
from lodestar.techniques.timeline import Timeline
from lodestar.techniques.video_reference import VideoReference
from rolling_streams import in_order, plain
from safetensors.torch import load_file
from stream_takes import make_stream, session

FIXTURES = golden.Fixtures(Path(__file__).resolve().parents[2] / "golden" / "rolling")
RECORDS = {record["name"]: record for record in FIXTURES.cases["cases"]}


@pytest.fixture(scope="module")
def student():
    return tiny_student.load_student(FIXTURES.load("weights.safetensors"), FIXTURES.cases["network"])


@pytest.fixture(autouse=True)
def known():
    with rolling_streams.known():
        yield


make = partial(rolling_streams.make, FIXTURES)


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
    for part, name in enumerate(("key", "value")):
        assert apart(in_order(stream, part, record), tensors[f"{last}.held.{name}"]) < 1e-5


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


def test_a_plan_says_what_a_stream_costs(student):
    """In the user's units; the bytes are those that the stream then has."""
    record = RECORDS["two_passes_ahead_tail"]
    model = attach.with_technique(attach.with_technique(student, TemporalAnchor(record["T"], "RAM")), StyleAnchor())
    plan = plan_take(Timeline(Fraction(25)), 100, 81, 0, 48, 32, block_latents=record["B"])
    rolling = Rolling(tuple(record["sigmas"]), record["B"], record["N"], record["renoise"])
    _, stream = make(student, record)
    wanted = f"KV cache: {stream.memory.bytes / 1e6:.0f} MB in RAM for each condition that guidance uses"
    assert cache_bytes(model, plan, attach.techniques_of(model)) == stream.memory.bytes
    assert describe_stream(model, plan) == (
        "stream: blocks of 0.32 s; with 4 of them in the window it looks 0.96 s ahead in the sound; 1 call of the "
        f"model for each block and pass, and 1 that remembers it; {wanted}")
    said = describe_stream(model, plan, rolling)
    assert "with 2 of them in the window it looks 0.32 s ahead" in said and "2 calls of the model for each" in said
    assert not describe_stream(model, plan_take(Timeline(Fraction(25)), 100, 81, 0, 48, 32))


def test_a_journal_has_what_each_condition_remembers(student, tiny_models, tmp_path, monkeypatch):
    """In the state's own file. That a take goes on with it to the byte: test_stream_take.py, with AvatarForcing."""
    monkeypatch.setattr(plans, "CHUNK_SECONDS", 0.5)
    chunk = FamilyChunk(Family("student", lambda _: student, text=FIXTURES.cases["network"]["text_dim"]), student)
    with pytest.raises(OSError, match="broken off"):
        make_stream(session(chunk, tiny_models, tmp_path, seconds=1), "take/one", broken_after=1)
    states = [load_file(path) for path in tmp_path.rglob("state_*.safetensors")]
    assert {name.split("/")[1] for state in states for name in state if "/" in name} == {"positive 0", "negative 0"}


def test_each_condition_of_a_guider_remembers_for_itself(student):
    """As two streams of the plain network, whose predictions are combined before either goes on."""
    record, negative = RECORDS["two_passes_ahead_tail"], random(1, 5, FIXTURES.cases["network"]["text_dim"], seed=3)
    take = golden_rolling.Take(FIXTURES, record)
    streams = [golden_rolling.Stream(take) for _ in range(2)]
    streams[1].inputs = {**streams[1].inputs, "context": negative}
    streams[1].anchor = streams[1].write_anchor(streams[1].rows[:, :1])

    def predict(call, x):
        with_prompt, without = (stream.predict(call, x) for stream in streams)
        return without + 3.0 * (with_prompt - without)

    noise = FIXTURES.load(record["file"])["noise"]
    with torch.no_grad():
        blocks = roll(take.rolling, take.blocks, record["T"], predict, lambda block, level: noise[block, level][None],
                      lambda call, clean: [stream.run(call, clean) for stream in streams])
        wanted = torch.cat([streams[0].inputs["picture"], *blocks], 2)[:, :, :record["latents"]]
    found, stream = make(student, record, guide=partial(plain, negative=negative, cfg=3.0))
    assert apart(found, wanted) < 1e-5
    assert {branch for _, branch in stream.memory.kept} == {"positive 0", "negative 0"}


def test_speech_guidance_and_a_lookahead_anchor_stand_beside_it(student):
    """Three conditions with a memory each; a further picture rides in the window and in what is remembered."""
    record = RECORDS["two_passes_ahead_tail"]
    negative = random(1, 5, FIXTURES.cases["network"]["text_dim"], seed=3)

    def guide(model, text, values):
        return guide_speech(model, [[text, values]], [[negative, values]], 2.0, 3.0, False)

    wanted, _ = make(student, record)
    guided, stream = make(student, record, guide=guide)
    assert len({branch for _, branch in stream.memory.kept}) == 3
    anchor = LookaheadAnchor(latents=random(1, 16, 1, 4, 6, seed=5))
    anchored, stream = make(student, record, others=[anchor])
    assert apart(guided, wanted) > 1e-3 and apart(anchored, wanted) > 1e-3
    assert stream.memory.kept[RECENTS, "positive 0"].blocks[0][0].shape[1] == record["T"] * 6


def test_a_lora_changes_what_is_remembered_as_its_weights_would(student):
    record, key = RECORDS["two_passes_ahead_tail"], "diffusion_model.blocks.1.self_attn.k.weight"
    change = 0.1 * random(64, 64, seed=8)
    patched = student.clone()
    patched.add_patches({key: (change,)}, 1.0)
    found, _ = make(student, record, model=patched)
    weights = dict(FIXTURES.load("weights.safetensors"))
    weights["blocks.1.self_attn.k.weight"] = weights["blocks.1.self_attn.k.weight"] + change
    wanted, _ = make(tiny_student.load_student(weights, FIXTURES.cases["network"]), record)
    assert apart(found, wanted) < 1e-5 and apart(make(student, record)[0], wanted) > 1e-3


def test_a_video_of_the_person_stands_beside_what_it_remembers(student):
    """Its selected tokens are seen in every window, and nothing else of it."""
    record = RECORDS["two_passes_ahead_tail"]
    keep = torch.zeros(2, 2, 3, dtype=torch.bool)
    keep[:, 0, 1:] = True
    cells = keep.repeat_interleave(2, 1).repeat_interleave(2, 2)
    latents = random(1, 16, 2, 4, 6, seed=5)
    made, elsewhere, inside = (make(student, record, others=[VideoReference(seen, Tokens(keep))])[0]
                               for seen in (latents, latents + 3 * ~cells, latents + 3 * cells))
    plain_made, _ = make(student, record)
    assert torch.equal(made, elsewhere) and apart(made, inside) > 1e-4 and apart(made, plain_made) > 1e-4


def test_what_cannot_stand_beside_it_is_refused_by_name(student):
    record = RECORDS["two_passes_ahead_tail"]
    hidden = [LookaheadAnchor(latents=random(1, 16, 1, 4, 6, seed=5)), ReferenceSkip(radius=1)]
    with pytest.raises(ValueError, match="tiny student cannot do beside the KV cache of a stream. Remove Reference"):
        make(student, record, others=hidden)
    with pytest.raises(ValueError, match="EasyCache"):
        make(student, record, model=EasyCacheNode.execute(student, 0.2, 0.1, 0.9, False).args[0])
    windows = WanContextWindowsManualNode.execute(student, 9, 4, "standard_static", 1, False, "flat", False).args[0]
    with pytest.raises(ValueError, match="context windows"):
        make(student, record, model=windows)


def test_another_node_s_attention_is_asked_with_what_is_remembered(student):
    """Whether it is set before our nodes or after: ours is put in front in each call."""
    record, keys = RECORDS["two_passes_ahead_tail"], set()

    def theirs(function, q, k, v, *args, **kwargs):
        keys.add((q.shape[1] // 6, k.shape[1] // 6))
        return function(q, k, v, *args, **kwargs)

    model = student.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = theirs
    wanted, _ = make(student, record)
    assert torch.equal(make(student, record, model=model)[0], wanted)
    assert (4, 4 + 1 + 2) in keys       # a full window, the picture and two latents
