"""Whatever happens to the files of a take between two runs, the next one ends in the same frames or says what to do."""
import random
import runpy
import shutil
from functools import partial
from pathlib import Path

import pytest
from lodestar.pipelines.safe_files import NotReadable, NotWritten
from lodestar.pipelines.take.folder_lock import FolderBusy
from lodestar.pipelines.take.manifest import MANIFEST
from lodestar.tests.test_video_writer import stored

pytestmark = pytest.mark.once
RIG = Path(__file__).with_name("rig") / "killed_takes.py"


class Died(BaseException):
    """Stands for a kill after the last chunk."""


@pytest.fixture(scope="module", params=["ToySampler", "ToyRollingSampler"])
def takes(tmp_path_factory, request):
    """What makes the take, folders of a finished one, of its chunks and of its first chunk, and what is right."""
    make = partial(runpy.run_path(str(RIG))["make"], sampler=request.param)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("finished", "chunks", "first")}
    whole = make(folders["finished"], True)

    def die():
        raise Died
    with pytest.raises(Died):
        make(folders["chunks"], True, die)
    shutil.copytree(folders["chunks"], folders["first"], dirs_exist_ok=True)
    manifest = folders["first"] / "journal" / MANIFEST
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:2]))
    return make, list(folders.values()), stored(whole["path"]), whole["tail"]


def damage(chance, path):
    data, place = path.read_bytes(), chance.randrange(path.stat().st_size + 1)
    others = [other.read_bytes() for other in sorted(path.parent.iterdir()) if other.is_file()]
    kind = chance.choice(["a bit", "cut", "gone", "longer", "zeros", "a folder", "another's", "in another order"])
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes({
            "a bit": data[:place] + bytes(byte ^ 1 << place % 8 for byte in data[place:place + 1]) + data[place + 1:],
            "cut": data[:place], "longer": data + b"x", "zeros": bytes(len(data)),
            "another's": chance.choice(others),
            "in another order": b"\n".join(chance.sample(data.split(b"\n"), data.count(b"\n") + 1))}[kind])
    return f"{path.name}: {kind}"


@pytest.mark.parametrize("seed", range(25))
def test_files_damaged_between_two_runs(tmp_path, takes, seed):
    make, states, frames, tail = takes
    chance = random.Random(seed)
    shutil.copytree(chance.choice(states), tmp_path, dirs_exist_ok=True)
    done = []
    for _ in range(chance.choice([1, 1, 2, 4])):
        files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        done.append(damage(chance, chance.choice(files)))
    try:
        made = make(tmp_path, chance.random() < 0.5)
    except (NotWritten, NotReadable, FolderBusy) as error:
        assert "queue again" in str(error) and any("a folder" in what for what in done), (done, str(error))
    else:
        found = stored(made["path"])
        assert made["tail"] == tail and found.shape == frames.shape and (found == frames).all(), done
        assert not list(tmp_path.rglob("*.part")), done
