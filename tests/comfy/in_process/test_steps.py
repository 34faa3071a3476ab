"""Steps of the sampler beside ComfyUI's compiler: nothing outlives one, nothing waits for the device, all are alike."""
import importlib
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES, FamilyChunk, load_family
from lodestar.backbones.wan.base import Wan
from lodestar.host.rolling_sampler import RollingSampler
from lodestar.host.stream_calls import StreamCalls
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.temporal_anchor import TemporalAnchor

pytestmark = pytest.mark.once

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
steps = importlib.import_module("steps")


# without the sampler there are no context windows; a KV cache in RAM is copied from the host on purpose
ON_A_DEVICE = [case for case in steps.CASES if "windows" not in case and "in RAM" not in case]


@pytest.mark.parametrize("case", steps.CASES)
def test_steps_leave_nothing_wait_for_nothing_and_are_alike(case):
    """Of a chunk in the middle of a take, twice in a row: in the second prompt a compiler's record is replayed."""
    (first, made), (again, made_again) = (steps.sample_case(case) for _ in range(2))
    windows = len(made) // steps.STEPS
    apart = case == "infinitetalk, two speakers"    # its uncond has one audio stream, so a call of its own
    assert windows > 1 if "windows" in case else windows == 1 + apart
    assert made[0].made and torch.equal(first, again) and steps.alike(made) and steps.alike(made_again)
    for latents, run in ((first, made), (again, made_again)):
        for step in run:
            assert (step.rogues, step.syncs) == ([], [])
            assert step.alive(latents) == [], "kept after the prompt"


@pytest.mark.parametrize("case", ON_A_DEVICE)
def test_steps_bring_nothing_from_the_host(case):
    """All but what a sampler brings itself: pictures, positions and masks are on the device before the first block."""
    assert [step.crossings for step in steps.on_a_device(case)] == [[]] * steps.STEPS


STREAMS = {"wan21_t2v": "joint", "longcat_video": "closed", "avatarforcing": "written"}


def sample_stream(chunk, monkeypatch):
    """A clip of six blocks behind Style and Temporal Anchor: its latents, and each call of the model, a step, as its
    levels and whether it is for the memory."""
    made, ask = [], StreamCalls.ask
    inputs = chunk.inputs(chunk=0, latents=12)
    guider = chunk.guider_at(chunk.guider(chunk.model), (TemporalAnchor(2), StyleAnchor(latents=chunk.picture(5))),
                             inputs, chunk=0)
    with steps.watching() as new, monkeypatch.context() as patched:
        def watch_call(self, x, levels, window, memory=None):
            watch = new()
            with watch:
                result = ask(self, x, levels, window, memory)
            made.append(((levels, memory is not None and memory.writes), watch.close(result)))
            return result

        patched.setattr(StreamCalls, "ask", watch_call)
        with torch.inference_mode():
            result = guider.sample(steps.random(*inputs.samples.shape, seed=1), torch.zeros_like(inputs.samples),
                                   RollingSampler(2, 1, "fresh"), torch.tensor([1.0, 0.6, 0.0]), disable_pbar=True)
    return result, made


@pytest.mark.parametrize("name", STREAMS)
def test_windows_of_a_stream_leave_nothing_wait_for_nothing_and_are_alike(tiny_models, monkeypatch, name):
    """Those of a full window, and what remembers the blocks that leave it, but for the first of each."""
    monkeypatch.setattr(steps, "PARTS", (*steps.PARTS, "host"))
    chunk = FamilyChunk(FAMILIES[name], load_family(name, tiny_models / "models"))
    assert chunk.backbone.memory == STREAMS[name]
    (first, _), (again, made) = (sample_stream(chunk, monkeypatch) for _ in range(2))
    kinds = {kind: [step for its, step in made if its == kind] for kind, _ in made}
    steady = [several[1:] for kind, several in kinds.items() if len(several) > 3]
    assert torch.equal(first, again) and len(steady) == 1 + (name == "avatarforcing")
    for several in steady:
        assert len(several) > 2 and several[0].made
        for step in several:
            assert (step.rogues, step.syncs) == ([], []) and step.made == several[0].made
    assert [step.alive(again) for _, step in made if step.alive(again)] == []


@pytest.mark.parametrize(("fault", "found"), [
    (lambda kept, x: kept.append(x + 1), ("rogues", 1)), (lambda kept, x: float(x.mean()), ("syncs", 1)),
    (lambda kept, x: torch.equal(x, x + 1), ("syncs", 1)), (lambda kept, x: x.new_tensor([1.0, 2.0]), ("syncs", 1)),
    (lambda kept, x: x[x > 0], ("syncs", 1))],
    ids=["kept", "float", "equal", "new_tensor", "boolean index"])
def test_the_count_sees_each_fault(monkeypatch, fault, found):
    kept, own_layout = [], Wan.own_layout

    def faulty(call):
        fault(kept, call.x)
        return own_layout(call)

    monkeypatch.setattr(Wan, "own_layout", staticmethod(faulty))
    name, least = found
    assert all(len(getattr(step, name)) >= least for step in steps.sample_case("wan21_t2v, anchor")[1])


def test_the_count_sees_what_comes_from_the_host(monkeypatch):
    far, own_layout = torch.randn(3), Wan.own_layout

    def faulty(call):
        far.to(call.x.device)
        return own_layout(call)

    monkeypatch.setattr(Wan, "own_layout", staticmethod(faulty))
    assert all(step.crossings for step in steps.on_a_device("wan21_t2v, anchor"))
