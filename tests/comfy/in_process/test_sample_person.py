"""Sample Person brings what Load Image and Load Audio would of the same files; every person is there, with a speech."""
import asyncio
import inspect
import shutil

import folder_paths
import pytest
import torch
from lib import workflow_inputs
from lodestar.host.sample_people import people
from lodestar.nodes.sample_person import LodestarSamplePerson

PEOPLE = people()


@pytest.mark.parametrize("person", PEOPLE)
def test_it_is_what_core_loads(person, tmp_path, monkeypatch):
    from comfy_extras.nodes_audio import LoadAudio

    import nodes
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    for file in PEOPLE[person].values():
        shutil.copy(workflow_inputs.ASSETS / file, tmp_path)
    image, audio = LodestarSamplePerson.execute(person, 0.0).args
    assert torch.equal(image, nodes.LoadImage().load_image(PEOPLE[person]["picture"])[0])
    loaded = LoadAudio.execute(PEOPLE[person]["speech"])
    loaded = asyncio.run(loaded) if inspect.isawaitable(loaded) else loaded
    assert audio["sample_rate"] == loaded.args[0]["sample_rate"] == 16000
    assert torch.equal(audio["waveform"], loaded.args[0]["waveform"]) and audio["waveform"].shape[:2] == (1, 1)


def test_the_speech_can_be_cut():
    whole, short = (LodestarSamplePerson.execute("portrait", seconds).args[1]["waveform"] for seconds in (0.0, 2.5))
    assert whole.shape[-1] > 14 * 16000 and torch.equal(short, whole[..., :40000])
    assert torch.equal(LodestarSamplePerson.execute("portrait", 60.0).args[1]["waveform"], whole)
