"""A stream of AvatarForcing in a real server: what does not belong to it is refused by name."""
import pytest
from lib import comfy_server
from served_takes import without_text_encoder, workflow


def short(prefix: str):
    """The workflow of the pack, at 64x64."""
    graph = without_text_encoder(workflow("streaming_student"))
    graph.the("LodestarPlanTake").set(width=64, height=64, max_seconds=2.5)
    graph.the("LodestarLongTake").set(filename_prefix=prefix)
    return graph


@pytest.mark.parametrize(("kind", "changes", "says"), [
    ("LodestarPlanTake", {"block_latents": 3}, "the Rolling Window moves 4 latents at a time"),
    ("LodestarPlanTake", {"block_latents": 0}, "plan: it has chunks, the Rolling Window moves 4 latents"),
    ("LodestarStudentSchedule", {"blocks": 3}, "got 3 x 1 = 3 levels, but AvatarForcing was distilled for 4"),
    ("LodestarLongTake", {"audio_features": None}, "AvatarForcing is driven by speech"),
    ("LodestarLongTake", {"reference": None}, "a stream begins with its picture, and none came"),
    ("LodestarLoadStudent", {"student_name": "wan2.1_i2v_480p_14B_fp8_scaled.safetensors"},
     "holds img_emb.*wanted Wan 2.1's layers")],
    ids=["other blocks", "chunks", "other levels", "no speech", "no picture", "image-to-video"])
def test_what_does_not_belong_is_refused_by_name(official, kind, changes, says):
    graph = short("students/refused")
    for name, value in changes.items():
        if value is None:
            graph.the(kind).unset(name)
        else:
            graph.the(kind).set(**{name: value})
    with pytest.raises(comfy_server.PromptFailed, match=says):
        official.run(graph.prompt())
    assert not list((official.base / "output").rglob("students/refused*.mp4"))
