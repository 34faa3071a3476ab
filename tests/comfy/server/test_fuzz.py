"""Hostile values in the nodes' inputs through POST /prompt: one clear error each, no half file, and the server goes on.

A few of each node here; `python tests/rig/fuzz_prompts.py` tries any number (docs/reliability.md). What other packs may
put on a wire is tests/comfy/in_process/test_every_input.py's; here it is what JSON can hold.
"""
import time

import fuzz_prompts
import pytest

FEW = 2


def test_no_node_answers_a_hostile_value_with_less_than_a_clear_error(server):
    answers = {}
    offered = fuzz_prompts.nodes_of(server)
    assert len(offered) > 30
    for name, node in offered.items():
        for number in range(FEW):
            answers[name, number] = fuzz_prompts.ask(server, name, node, f"ci {number}")
    faults = [fault for _, fault in answers.values() if fault]
    assert not faults, "\n".join(faults)
    kinds = [answer for answer, _ in answers.values()]
    assert kinds.count("refused") > 20 and kinds.count("failed") > 10      # it reaches validation, and the nodes
    assert not list((server.base / "output").rglob("*.part"))
    until = time.monotonic() + 30       # the last prompt leaves the queue just behind its error
    while server.get("/queue") != {"queue_running": [], "queue_pending": []}:
        assert time.monotonic() < until


@pytest.mark.parametrize(("said", "is_fault"), [
    ("width: got 65, wanted a multiple of 16", False), ("'NoneType' object is not subscriptable", True),
    ("a" * 2000, True)])
def test_what_is_no_clear_error_would_be_found(said, is_fault):
    node = fuzz_prompts.Graph().add("LodestarPlanTake")
    failure = fuzz_prompts.comfy_server.PromptFailed({
        "node_id": node.id, "node_type": node.kind, "exception_type": "ValueError", "exception_message": said,
        "traceback": ["custom_nodes/ComfyUI-Lodestar/nodes/plan_take.py"]})
    assert bool(fuzz_prompts.wrong_failure(failure, node)) == is_fault
