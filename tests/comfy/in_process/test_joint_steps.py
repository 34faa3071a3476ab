"""Steps of models that make picture and sound together: nothing outlives one, and by the pack's doing nothing waits."""
import importlib
import sys
from pathlib import Path

import pytest
from comfy.patcher_extension import WrappersMP
from families import FAMILIES, FamilyChunk, load_family
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip

pytestmark = pytest.mark.once

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
steps = importlib.import_module("steps")
INSIDE = {"placement": "in chunk", "index": 2}


@pytest.mark.parametrize("family", ["ltx", "minimax_h3"])
@pytest.mark.parametrize("skip", [(), (ReferenceSkip(),), (ReferenceSkip("soft", 1, 0.3),)], ids=["no", "hard", "soft"])
def test_steps_leave_nothing_and_wait_for_nothing(family, skip, tiny_models):
    if not FAMILIES[family].exists:
        return
    chunk, made = FamilyChunk(FAMILIES[family], load_family(family, tiny_models / "models")), []
    inputs = chunk.inputs()
    guider = chunk.guider_at(chunk.guider(chunk.model), (LookaheadAnchor(3, latents=chunk.picture(12), **INSIDE),
                                                         *skip), inputs)
    chunk.sample(steps=1)       # what ComfyUI keeps for good, such as its frequencies, is there from the first run on
    with steps.watching() as new:
        def watch(executor, *args, **kwargs):
            watching = new()
            with watching:
                result = executor(*args, **kwargs)
            made.append(watching.close(result))
            return result

        guider.model_patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "a_steps", watch)
        guider.model_options = guider.model_patcher.model_options
        chunk.run(guider, inputs, 2)
    assert made[0].made and [(step.rogues, step.syncs) for step in made] == [([], [])] * len(made)
