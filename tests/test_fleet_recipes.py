"""The Slurm recipe of docs/fleet.md, as it stands there, in bash: srun and apptainer only say what they were given."""
import os
import re
import shutil
import subprocess

import pytest
import render
from lib import environment
from lib.jobs import read_jobs

pytestmark = [pytest.mark.once, pytest.mark.skipif(not shutil.which("bash") or not shutil.which("split"),
                                                   reason="the recipe is for bash and GNU split")]

PAGE = (environment.PACK / "docs" / "fleet.md").read_text(encoding="utf-8")
WORKFLOW = environment.PACK / "tests" / "golden" / "tiny_take.json"
ARRAY, SPLIT = re.findall(r"```bash\n(.+?)```", PAGE[PAGE.index("## Slurm"):], re.DOTALL)


@pytest.fixture
def run(tmp_path):
    """A script of the recipe in an account of its own; the words of its command."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)

    def ask(script, task="0"):
        variables = {**os.environ, "SCRATCH": str(tmp_path), "SLURM_ARRAY_TASK_ID": task,
                     "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(["bash", "-euc", script], env=variables, check=True, capture_output=True,
                              text=True).stdout.splitlines()
    return ask


def test_each_task_of_the_array_renders_its_part_of_the_table(run, tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "a.wav").touch()
    (folder / "jobs.csv").write_text("name,speech\n" + "".join(f"{number},a.wav\n" for number in range(57)))
    run(SPLIT)
    names = []
    for task in range(12):
        command = run(ARRAY, str(task))
        place = next(number for number, word in enumerate(command) if word.endswith("render.py"))
        assert command[:2] == ["apptainer", "exec"] and command[place - 1] == "python"
        options = render.parse_options([word.replace("/ComfyUI/", f"{tmp_path}/") for word in command[place + 1:]])
        assert options.gpu and options.output == tmp_path / "output"
        names += [job.name for job in read_jobs(options.jobs, WORKFLOW)]
        bound = [word.partition(":")[0] for mark, word in zip(command, command[1:], strict=False) if mark == "--bind"]
        assert len(bound) == 5 and [name for name in bound if not os.path.isdir(name)] == [f"{tmp_path}/models"]
    assert names == [str(number) for number in range(57)]
