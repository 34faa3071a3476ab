"""The folder of training clips: what was written is read back mapped, damage and other makers are refused by name."""
from dataclasses import replace

import pytest
import torch
from lodestar.pipelines.safe_files import NotWritten
from lodestar.pipelines.take.folder_lock import FolderBusy
from lodestar.pipelines.training.clip_store import ClipFormat, ClipStore, SpeechFormat
from lodestar.pipelines.training.clips import check_arrays

pytestmark = pytest.mark.once
MEL = SpeechFormat("log-mel", 5, 16, 25.0)
FORMAT = ClipFormat("WanVAE", 16, 96, 64, 8, 4, "16", 9, 5, 2, "whole picture", False, 0, MEL)


def filled(folder, made_with=FORMAT, clips=3):
    store = ClipStore.create(folder, made_with)
    with store.writer():
        for number in range(clips):
            arrays = {"latents": torch.full((16, 9, 8, 12), float(number)).half(), "picture_frames": torch.arange(4)}
            store.write(f"one_{number:05d}", arrays, {"source": "a.mp4", "silent": number == 2})
    return ClipStore.open(folder)


def test_clips_come_back_with_what_they_are(tmp_path):
    store = filled(tmp_path)
    assert store.format == FORMAT and store.format.frames == 33
    assert [clip.info.silent for clip in store] == [False, False, True]
    clip = store[1]
    assert clip.info.name == "a.mp4" and clip.info.fps == 16 and clip.info.family == "log-mel"
    assert torch.equal(clip["latents"], torch.ones(16, 9, 8, 12).half()) and "speech" not in clip
    with pytest.raises(KeyError, match="one_00001.safetensors has no speech, only latents"):
        clip["speech"]


def test_a_pair_has_its_clip_s_arrays_as_well(tmp_path):
    store = filled(tmp_path)
    pairs = store.on("pairs_1")
    with pytest.raises(ValueError, match="the folder has none"):
        check_arrays(pairs, ("trajectory",), "a recipe")
    pairs.write("p", {"trajectory": torch.zeros(2, 16, 5, 8, 12)}, {"clip": "one_00002"})
    pair = pairs.refresh()[0]
    assert "trajectory" in pair and float(pair["latents"].max()) == 2 and pair.info.silent
    assert len(store.refresh()) == 3
    with pytest.raises(ValueError, match="have no trajectory .* Make them with Backfill"):
        check_arrays(store, ("trajectory",), "a recipe")


def test_a_folder_made_otherwise_is_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(ValueError, match="width 96, not 128"):
        ClipStore.create(tmp_path, replace(FORMAT, width=128))
    assert len(ClipStore.create(tmp_path, FORMAT)) == 3


def test_the_digest_changes_with_what_is_there(tmp_path):
    store = filled(tmp_path)
    assert store.digest == ClipStore.open(tmp_path).digest
    store.write("two_00000", {"latents": torch.zeros(1)}, {})
    assert store.digest != store.refresh().digest != store.on("pairs_1").digest


def test_two_writers_and_a_full_disk(tmp_path, monkeypatch):
    store = filled(tmp_path)
    with store.writer(), pytest.raises(FolderBusy, match="in use by another run"), store.writer():
        pass

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("lodestar.pipelines.safe_files.sync", full)
    with pytest.raises(NotWritten, match="No space left"):
        store.write("late", {"latents": torch.zeros(2)}, {})
    assert [path.stem for path in (tmp_path / "clips").iterdir() if "late" in path.name] == []


@pytest.mark.parametrize(("damage", "words"), [
    (lambda folder: (folder / "clips.json").write_text("{"), "clips.json: it is damaged"),
    (lambda folder: (folder / "clips.json").write_text('{"version": 9}'), "of version 9"),
    (lambda folder: (folder / "clips.json").unlink(), "no folder of training clips"),
    (lambda folder: (folder / "clips" / "one_00000.safetensors").write_bytes(b"short"), "is damaged .*delete it")])
def test_damage_is_named(tmp_path, damage, words):
    filled(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=words):
        ClipStore.open(tmp_path)[0]


def test_what_a_model_cannot_take_is_named(tmp_path):
    store = filled(tmp_path)
    store.check_model("Wan", 16, 16, 4, "WanVAE")
    store.check_speech("LongCat", (5,), 16)
    for arguments, words in (((48, 16, 4), "16 channels"), ((16, 32, 4), "96x64, 8 pixels"),
                             ((16, 16, 8), "4 frames each"),
                             ((16, 16, 4, "AutoencoderKLCogVideoX"), "of WanVAE, X wants those of AutoencoderKLCog")):
        with pytest.raises(ValueError, match=words):
            store.check_model("X", *arguments)
    with pytest.raises(ValueError, match="5 layers of 16 at 25 Hz .log-mel., X wants 25 layers of 1024"):
        store.check_speech("X", (25,), 1024)
    with pytest.raises(ValueError, match="has no speech"):
        filled(tmp_path / "mute", replace(FORMAT, speech=None)).check_speech("X", (25,), 1024)
