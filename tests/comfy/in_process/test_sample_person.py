"""Sample Person brings what Load Image and Load Audio would of the same files; every person is there, with a speech."""
import asyncio
import inspect
import shutil
from fractions import Fraction

import folder_paths
import pytest
import torch
from lib import workflow_inputs
from lodestar.host.driving_sources import open_video
from lodestar.host.sample_people import VIDEOS, people
from lodestar.nodes.driving_video import LodestarDrivingVideo
from lodestar.nodes.sample_person import LodestarSamplePerson
from lodestar.nodes.sample_video import LodestarSampleVideo

PEOPLE = people()


@pytest.mark.parametrize("person", PEOPLE)
def test_it_is_what_core_loads(person, tmp_path, monkeypatch):
    from comfy_extras.nodes_audio import LoadAudio

    import nodes
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    for file in PEOPLE[person].values():
        shutil.copy(workflow_inputs.ASSETS / file, tmp_path)
    image, audio, mask = LodestarSamplePerson.execute(person, 0.0).args
    pixels, transparent = nodes.LoadImage().load_image(PEOPLE[person]["picture"])
    assert torch.equal(image, pixels) and mask.shape == image.shape[:3]
    assert torch.equal(mask, transparent) if transparent.any() else not mask.any()
    loaded = LoadAudio.execute(PEOPLE[person]["speech"])
    loaded = asyncio.run(loaded) if inspect.isawaitable(loaded) else loaded
    assert audio["sample_rate"] == loaded.args[0]["sample_rate"] == 16000
    assert torch.equal(audio["waveform"], loaded.args[0]["waveform"]) and audio["waveform"].shape[:2] == (1, 1)


def test_the_speech_can_be_cut():
    whole, short = (LodestarSamplePerson.execute("portrait", seconds).args[1]["waveform"] for seconds in (0.0, 2.5))
    assert whole.shape[-1] > 14 * 16000 and torch.equal(short, whole[..., :40000])
    assert torch.equal(LodestarSamplePerson.execute("portrait", 60.0).args[1]["waveform"], whole)


def test_the_videos_are_of_one_stretch_and_fit_their_inputs():
    talking, poses, face = (LodestarSampleVideo.execute(name).args[0] for name in VIDEOS)
    driving = LodestarDrivingVideo.execute(poses, "refuse", face).args[0]
    assert driving.frames_at(Fraction(25)) == 100 and driving.sound()["waveform"].any()
    assert (talking.get_dimensions(), poses.get_dimensions(), face.get_dimensions()) == ((384,) * 2, (512,) * 2,
                                                                                        (256,) * 2)
    sound = open_video(talking, "the video").sound()
    assert sound["sample_rate"] == 16000 and abs(sound["waveform"].shape[-1] - 64000) < 2048
