"""Steps of the sampler beside ComfyUI's compiler: nothing outlives one, nothing waits for the device, all are alike."""
import importlib
import sys
from pathlib import Path

import pytest
import torch
from lodestar.backbones.wan.base import Wan

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
