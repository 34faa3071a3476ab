"""A take that is killed before every single file operation, of its chunks and of its end, and queued again."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.once,
              pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork, and has no SIGKILL")]
RIG = Path(__file__).with_name("rig") / "killed_takes.py"


@pytest.fixture(scope="module")
def killed_takes(tmp_path_factory):
    """(the folder, the cases of each way), all of one run of the rig's script."""
    folder, cases = tmp_path_factory.mktemp("killed"), {}
    output = subprocess.run([sys.executable, str(RIG), str(folder)], capture_output=True, text=True, check=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout
    for line in output.splitlines():
        case = json.loads(line)
        cases.setdefault(case["way"], []).append(case)
    return folder, cases


@pytest.mark.parametrize("keep", ["keep", "tidy"])
@pytest.mark.parametrize("disk", ["link", "copy"])
def test_killed_anywhere_behind_its_chunks_there_is_one_file(killed_takes, keep, disk):
    """Only a run that had ended already leaves the next one a second file to make: of its journal there was at most
    what `discard` removes last."""
    folder, cases = killed_takes[0] / f"{keep} {disk}", killed_takes[1][f"{keep} {disk}"]
    killed = [case for case in cases if not case["ended"]]
    assert len(killed) > 8 and cases[-1]["ended"] and len({case["tail"] for case in cases}) == 1
    for case in cases:
        place = folder / str(case["number"])
        videos = [f"output/take_{number}.mp4" for number in range(1, 3 if case["over"] else 2)]
        kept = {"journal", "journal/lock", "journal/manifest.jsonl", *(
            f"journal/chunk_{index:04}.{ending}" for index in (0, 1) for ending in ("mp4", "safetensors"))}
        assert set(case["left"]) == {"output", *videos, *(kept if keep == "keep" else ())}, case
        assert case["path"] == str(place / videos[-1]) and set(case["shown"]) <= {"take_1.mp4"}
        assert not case["over"] or set(case["working"]) <= {"lock", "chunk_0001.safetensors"}
        assert len({(place / video).read_bytes() for video in videos}) == 1
    assert any(case["shown"] for case in killed) and any(not case["shown"] for case in killed)


@pytest.mark.parametrize("sampler", ["ToySampler", "ToyRollingSampler"])
def test_killed_between_any_two_writes_it_costs_a_chunk(killed_takes, sampler):
    """Before each file operation of the chunks: the next run ends in the same latents and frames, and what was said to
    be finished is not made again, whatever else than latents it goes on from."""
    cases = killed_takes[1][sampler]
    assert len(cases) > 15 and [case["ended"] for case in cases] == [False] * (len(cases) - 1) + [True]
    assert len({case["tail"] for case in cases}) == len({Path(case["path"]).read_bytes() for case in cases}) == 1
    order = ["starting with chunk 1 of 2", "resuming at chunk 2 of 2",
             "all 2 chunks are finished: only the final file is to be written"]
    reached = [order.index(case["note"]) for case in cases]
    assert reached == sorted(reached) and set(reached) == {0, 1, 2}
