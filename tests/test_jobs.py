"""Jobs of scripts/render.py, without a server: tables and folders, when a job is the same, when a video is whole."""
import json
import time
from pathlib import Path

import pytest
from lib import environment, render_job
from lib.graph import Graph
from lib.jobs import FOLDER, Job, read_jobs

pytestmark = pytest.mark.once

WORKFLOW = environment.PACK / "tests" / "golden" / "tiny_take.json"
PUPPET = environment.PACK / "workflows" / "api" / "puppet.json"


class Uploads:
    """Stands where the client stands."""
    upload = staticmethod(lambda path: f"sent/{Path(path).name}")


@pytest.fixture
def folder(tmp_path):
    for name in ("anna.png", "ben.png", "anna.wav", "ben.flac"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "anna.txt").write_text("0:00 she smiles\n", encoding="utf-8")
    return tmp_path


def table(folder, text, name="jobs.csv"):
    (folder / name).write_bytes(text.encode("utf-8-sig"))
    return read_jobs(folder / name, WORKFLOW)


def refusal(folder, text):
    with pytest.raises(ValueError) as found:
        table(folder, text)
    return str(found.value)


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_a_table_is_read_with_any_separator(folder, between):
    first, second = table(folder, "name,picture,speech,script,seed,seconds,BasicScheduler.steps\n"
                          "one,anna.png,anna.wav,anna.txt,5,2.5,4\n\n,,ben.flac,,,,\n".replace(",", between))
    assert first == Job("one", WORKFLOW, folder / "anna.png", folder / "anna.wav", "0:00 she smiles", 5, 2.5,
                        (("BasicScheduler.steps", "4"),))
    assert second == Job("ben", WORKFLOW, None, folder / "ben.flac")
    graph = first.graph(Uploads, "d" * 64)
    assert graph.the("LoadImage").inputs["image"] == "sent/anna.png"
    assert graph.the("LoadAudio").inputs["audio"] == "sent/anna.wav"
    assert graph.the("LodestarPlanTake").inputs["script"] == "0:00 she smiles"
    assert graph.the("LodestarPlanTake").inputs["max_seconds"] == 2.5
    assert graph.the("RandomNoise").inputs["noise_seed"] == 5 and graph.the("BasicScheduler").inputs["steps"] == 4
    assert graph.the("LodestarLongTake").inputs["filename_prefix"] == f"{FOLDER}/one-{'d' * 16}"
    assert second.graph(Uploads, "d").the("RandomNoise").inputs["noise_seed"] == 7


def test_a_script_may_stand_in_the_table_and_sample_person_gives_way(folder):
    job, = table(folder, f'name,picture,speech,workflow,script\na b,anna.png,anna.wav,{PUPPET},"0:00 x, y\n0:02 z"\n')
    graph = job.graph(Uploads, "d")
    assert job.script == "0:00 x, y\n0:02 z" and not graph.all("LodestarSamplePerson")
    assert [graph.the(kind).inputs[key] for kind, key in (("LoadImage", "image"), ("LoadAudio", "audio"))] == [
        "sent/anna.png", "sent/anna.wav"]


@pytest.mark.parametrize(("rows", "says"), [
    ("one,none.png,anna.wav,", r"line 2: picture: \S+none.png is no file"),
    ("../one,,anna.wav,", "line 2: name: got '../one', wanted letters"), ("con,,anna.wav,", "line 2: name: got 'con'"),
    ("one,,anna.wav,x", "line 2: seed: got 'x', wanted a whole number"), ("one,,an\0na.wav,", "speech: .* is no file"),
    ('"one,,anna.wav,', "from line 2 on: unexpected end of data"),
    ("stra\xdfe,,anna.wav,\nSTRASSE,,ben.flac,", "line 3: a second job is called STRASSE"),
    ("\xe9,,anna.wav,\ne\u0301,,ben.flac,", "line 3: a second job is called \xe9"),
    ("\n".join(f"{number},none.png,," for number in range(60)), "line 51: (.|\n)*and 10 more like these"),
    ("one,,anna.wav,-1", "line 2: seed: got '-1'"),
    ("one,,anna.wav,1,2", "line 2: it has more values than there are col"),
    ("one,,anna.wav,\nONE,,ben.flac,", "line 3: a second job is called ONE"), ("", "there is no job in it"),
    (",,,3", "line 2: name: got ''")])
def test_what_cannot_be_rendered_is_said_with_its_line(folder, rows, says):
    import re
    assert re.search(says, refusal(folder, f"name,picture,speech,seed\n{rows}\n"))


@pytest.mark.parametrize(("column", "value", "says"), [
    ("Nobody.steps", "3", "the workflow has no such node, wanted one"),
    ("BasicScheduler.stops", "3", "BasicScheduler has no input stops in the workflow; it has model, scheduler, steps"),
    ("BasicScheduler.steps", "many", "got 'many', wanted a number"),
    ("LodestarLongTake.keep_chunks", "maybe", "got 'maybe', wanted true or false"),
    ("LodestarLongTake.vae", "x", "that input comes from another node"),
    ("speech", "x", "column speech stands there twice"),
    ("LodestarPlanTake.max_seconds", "inf", "got 'inf', wanted a number"),
    ("LodestarLongTake.filename_prefix", "x", "the video is called by the column name"),
    ("voice", "x", "unknown column 'voice'; there are name, picture, speech")])
def test_a_column_for_an_input_must_mean_one(folder, column, value, says):
    assert says in refusal(folder, f"speech,{column}\nanna.wav,{value}\n")


def test_every_wrong_row_is_said_at_once(folder):
    assert len(refusal(folder, "name,speech\na,x.wav\nb,anna.wav\nc,y.wav\n").splitlines()) == 2


def test_a_table_is_read_as_spreadsheets_write_it(folder):
    """A mark, a separator's line, empty lines and cells, capitals; two bytes a letter and code pages are said."""
    said = "sep=;\r\n\r\n Name ;SPEECH;;\r\n;;;\r\none;anna.wav;;\r\n;;;;;\r\n"
    assert [job.name for job in table(folder, said)] == ["one"]
    assert refusal(folder, said.replace("anna", "none")).startswith("jobs.csv, line 5: speech: ")
    for encoding, line in (("latin-1", 2), ("utf-16", 1)):
        (folder / "t.csv").write_bytes("name,speech\nM\xfcller,anna.wav".encode(encoding))
        with pytest.raises(ValueError, match=f"t.csv, line {line}: it is not UTF-8"):
            read_jobs(folder / "t.csv", WORKFLOW)


def test_a_table_of_thousands_is_checked_in_seconds(folder):
    """No file is read for it: that is done when its turn comes."""
    (folder / "ben.flac").write_bytes(bytes(1 << 24))
    since = time.process_time()
    assert len(table(folder, "name,speech\n" + "".join(f"{number},ben.flac\n" for number in range(200)))) == 200
    assert time.process_time() - since < 2


@pytest.mark.parametrize(("text", "says"), [
    ("{", "is no JSON"), ("[" * 100000, "is no JSON"), ('{"1": {"class_type": "X", "inputs": []}}', "no workflow in"),
    ('{"1": {"class_type": "LodestarSamplePerson", "inputs": {"person": ["2", 0]}}}', "wanted one of drawn character"),
    ('{"nodes": []}', "Export (API)"), ("[]", "no workflow in")])
def test_a_workflow_that_is_none_is_said(folder, text, says):
    (folder / "w.json").write_text(text)
    assert says in refusal(folder, "speech,workflow\nanna.wav,w.json\n")


def test_a_folder_has_a_job_per_sound(folder):
    anna, ben = read_jobs(folder, WORKFLOW)
    assert anna == Job("anna", WORKFLOW, folder / "anna.png", folder / "anna.wav", "0:00 she smiles")
    assert ben == Job("ben", WORKFLOW, folder / "ben.png", folder / "ben.flac")
    (folder / "workflow.json").write_text(WORKFLOW.read_text())
    (folder / "anna.png").unlink()
    assert [(job.picture, job.workflow) for job in read_jobs(folder, PUPPET)] == [
        (folder / "ben.png", folder / "workflow.json")] * 2
    (folder / "._ben.flac").touch()     # what a Mac leaves on other disks
    (folder / "c.png").touch()
    with pytest.raises(ValueError, match="anna.wav: none of the 2 pictures is called anna"):
        read_jobs(folder, WORKFLOW)
    for name in ("anna.png", "anna.jpg"):
        (folder / name).touch()
    with pytest.raises(ValueError, match="anna.wav: 2 of the 4 pictures are called anna"):
        read_jobs(folder, WORKFLOW)


def test_a_job_is_known_by_all_that_goes_into_it(folder):
    text = ("name,picture,speech,script,seed,seconds,LoadImage.image,BasicScheduler.steps\n"
            "{},{},anna.wav,{},{},{},{},{}\n")
    values = ["one", "", "0:00 x", "1", "2", "anna.png", "3"]
    job, = table(folder, text.format(*values))
    digests = {job.digest()}
    for place, other in enumerate(["two", "", "0:00 y", "2", "3", "ben.png", "4"]):
        if other:
            changed, = table(folder, text.format(*values[:place], other, *values[place + 1:]))
            assert (changed.digest() in digests) == (other == "two"), other
            digests.add(changed.digest())
    for name in ("anna.wav", "anna.png"):     # under the same name
        (folder / name).write_bytes(b"another")
        assert job.digest() not in digests
        digests.add(job.digest())


def box(kind, data=b"", long=False):
    return (len(data) + 8).to_bytes(4, "big") + kind + data if not long else \
        (1).to_bytes(4, "big") + kind + (len(data) + 16).to_bytes(8, "big") + data


def test_a_video_that_is_cut_short_is_not_whole(tmp_path):
    path = tmp_path / "a.mp4"
    for long in (False, True):
        data = box(b"ftyp", b"isom") + box(b"moov", b"m" * 30) + box(b"mdat", b"d" * 90, long)
        path.write_bytes(data)
        assert render_job.is_whole(path)
        for end in (0, 3, 20, len(data) - 91, len(data) - 1):
            path.write_bytes(data[:end])
            assert not render_job.is_whole(path)
    path.write_bytes(b"<html>no video</html>")
    assert not render_job.is_whole(path)


class Videos:
    """A server that has one video."""
    url = "http://here"

    def __init__(self, data):
        self.data = data

    def save(self, file, path):
        path.write_bytes(self.data)
        return True


def test_a_finished_video_is_known_and_one_of_other_content_is_never_written_over(folder):
    job, whole = Job("one", WORKFLOW), box(b"moov") + box(b"mdat", b"1")
    file = render_job.name_on_server(job.prefix("d"))
    out = folder / "videos"
    out.mkdir()
    assert not render_job.fetch(Videos(whole[:-1]), file, job, out, "d") and not list(out.iterdir())
    assert render_job.fetch(Videos(whole), file, job, out, "d") and render_job.is_finished(job, out, "d")
    assert json.loads((out / "one.json").read_text())["digest"] == "d" and not render_job.is_finished(job, out, "e")
    assert render_job.fetch(Videos(whole + box(b"free")), file, job, out, "e") and render_job.is_finished(job, out, "e")
    assert (out / "one.earlier-1.mp4").read_bytes() == whole
    (out / "one.mp4").write_bytes(whole)
    assert not render_job.is_finished(job, out, "e")
    assert sorted(path.name for path in out.iterdir()) == ["one.earlier-1.mp4", "one.json", "one.mp4"]


def test_nothing_of_the_users_is_written_over(folder):
    """What a job is made of in the video's place, and something else in that of its record."""
    class Nobody:
        """A server that is not asked."""
    (folder / "a.mp4").touch()
    (folder / "b.json").write_text("{}")
    for job, says in ((Job("a", WORKFLOW, speech=folder / "a.mp4"), "is what a is made of"),
                      (Job("b", WORKFLOW), "is no record of a video")):
        with pytest.raises(ValueError, match=says):
            render_job.render(Nobody(), job, folder)
    assert (folder / "b.json").read_text() == "{}"


def test_a_take_that_is_refined_is_named_by_its_refinement(folder):
    graph = Graph.read(WORKFLOW)
    graph.add("LodestarRefineTake", video=graph.the("LodestarLongTake")[0], filename_prefix="x")
    (folder / "both.json").write_text(json.dumps(graph.prompt()))
    made = Job("one", folder / "both.json").graph(Uploads, "d" * 64)
    assert made.the("LodestarRefineTake").inputs["filename_prefix"] == f"{FOLDER}/one-{'d' * 16}"
    assert made.the("LodestarLongTake").inputs["filename_prefix"] == f"{FOLDER}/one-{'d' * 16}-15"
