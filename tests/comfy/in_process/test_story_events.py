"""The story's anchors and keyframes in a take: what each chunk is given, and what of a bad one is refused and when."""
import json
from fractions import Fraction

import folder_paths
import pytest
import torch
from lodestar.backbones import attach
from lodestar.backbones.images import fit_picture
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.tests.comfy.in_process.test_session import changed, make, session, wan_vae
from PIL import Image

SCRIPT = "0:01 [anchor 1.5 s]\n0:02 [keyframe faces/a smile.png]\n0:03 [anchor]"


@pytest.fixture(autouse=True)
def pictures(tmp_path):
    """An input folder with one picture."""
    before = folder_paths.get_input_directory()
    folder = tmp_path / "input"
    (folder / "faces").mkdir(parents=True)
    Image.new("RGB", (80, 70), (200, 120, 40)).save(folder / "faces" / "a smile.png")
    folder_paths.set_input_directory(str(folder))
    yield folder
    folder_paths.set_input_directory(before)


def take_of(tiny_models, wan, tmp_path, script=SCRIPT, anchored=True):
    model = wan.load(tiny_models, "wan21_t2v")
    model = attach.with_technique(model, LookaheadAnchor(3)) if anchored else model
    take = session(model, wan_vae(tiny_models), tmp_path, script=script)
    return changed(take, keyframes=take.take.keyframes)


def found(made, kind):
    return next((own for own in attach.techniques_of(made.guider.model_patcher) if isinstance(own, kind)), None)


def test_each_chunk_has_the_anchor_and_the_keyframe_of_its_time(tiny_models, wan, tmp_path):
    take = take_of(tiny_models, wan, tmp_path)
    starts = [float(take.take.plan.seconds_of(chunk)[0]) for chunk in take.take.plan.chunks]
    chunks = make(take)[1]
    nearest = [min(range(len(starts)), key=lambda chunk: abs(starts[chunk] - at)) for at in (1, 3)]
    assert [found(made, LookaheadAnchor).distance for made in chunks] == [
        6 if nearest[0] <= index < nearest[1] else 3 for index in range(len(starts))]
    picture = fit_picture(take.take.keyframes[0][1], 64, 64)
    wanted = take.inputs.encode(picture)
    for start, made in zip(starts, chunks, strict=True):
        pursued = found(made, NarrativeKeyframes).keyframe_at(Fraction(start))
        assert pursued is None if start >= 2 else torch.equal(pursued, wanted)


def test_a_later_event_leaves_the_chunks_before_it_as_they_are(tiny_models, wan, tmp_path, pictures):
    def prints(script):
        return take_of(tiny_models, wan, tmp_path, script).fingerprints(VideoWriter(64, 64, 16))[0]

    with torch.inference_mode():
        plain, anchored, keyed = map(prints, ("", "0:03 [anchor 1 s]", "0:02 [keyframe faces/a smile.png]"))
        Image.new("RGB", (80, 70), (20, 120, 40)).save(pictures / "faces" / "a smile.png")
        other = prints("0:02 [keyframe faces/a smile.png]")
    assert plain[0] == anchored[0] and plain[-1] != anchored[-1]
    assert keyed[0] != other[0] and keyed[-1] == other[-1]


def test_a_distance_without_an_anchor_is_refused_before_sampling(tiny_models, wan, tmp_path):
    with pytest.raises(ValueError, match="^plan: its script sets an anchor's distance, and the model has no anchor"):
        take_of(tiny_models, wan, tmp_path, anchored=False).check()


@pytest.mark.parametrize("name, words", [
    ("gone.png", r"line 1 \(0:02 keyframe gone.png\): ComfyUI's input folder has no such file"),
    ("../a.png", "line 1 .*leaves ComfyUI's input folder"), ("text.png", "line 1 .*no picture that can be read")])
def test_a_bad_picture_is_named_by_its_line(tiny_models, wan, tmp_path, pictures, name, words):
    (pictures / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=words):
        take_of(tiny_models, wan, tmp_path, f"0:02 [keyframe {name}]")
    if name != "text.png":      # seen before anything runs
        assert "line 1" in LodestarPlanTake.validate_inputs(f"0:02 [keyframe {name}]")


def test_an_anchor_too_near_is_named_by_its_line(tiny_models, wan, tmp_path):
    with pytest.raises(ValueError, match="script, line 1: the anchor is to stand 0.1 s ahead, which is 0 latents"):
        take_of(tiny_models, wan, tmp_path, "0:02 [anchor 0.1 s]")


def test_a_picture_that_changed_under_its_name_is_read_again(pictures):
    before = LodestarPlanTake.fingerprint_inputs(script=SCRIPT, seed_step=1)
    Image.new("RGB", (8, 7)).save(pictures / "faces" / "a smile.png")
    assert LodestarPlanTake.fingerprint_inputs(script=SCRIPT, seed_step=1) != before
    assert LodestarPlanTake.fingerprint_inputs(script="") == LodestarPlanTake.fingerprint_inputs(script="0:00 a")


def test_plan_take_gives_its_plan_to_the_page(tiny_models, wan):
    model = attach.with_technique(wan.load(tiny_models, "wan21_t2v"), LookaheadAnchor(3))
    audio = {"waveform": torch.cat([torch.zeros(1, 1, 32000), torch.full((1, 1, 32000), 0.5)], 2), "sample_rate": 16000}
    made = LodestarPlanTake.execute(model=model, audio=audio, width=64, height=64, chunk_frames=17, overlap_frames=5,
                                    script="0:02 [anchor 2 s]\n0:03 [again]")
    view, = map(json.loads, made.ui["lodestar_plan"])
    chunks = made.args[0].plan.chunks
    assert view["seconds"] == 4.0 and len(view["chunks"]) == len(chunks) and made.ui["text"]
    assert [view["chunks"][0][name] for name in ("start", "from", "ahead")] == [0, 0, 0.75]
    assert view["chunks"][1]["from"] < view["chunks"][1]["start"] == view["chunks"][0]["end"]
    assert view["chunks"][-1]["ahead"] == 2 and len(view["remakes"]) == 1
    assert view["peaks"][0] == 0 and view["peaks"][-1] == 50 and 70 < len(view["peaks"]) < 90
