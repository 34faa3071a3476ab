"""Where a take's video goes: tokens as ComfyUI fills them in, names that every system can have, and its tags."""
import json
import os
import time

import folder_paths
import pytest
from comfy.cli_args import args
from lodestar.host.metadata import graph_tags
from lodestar.host.output_names import fill_in, free_paths, problem_of, subfolder_of

NOW = time.struct_time((2026, 3, 7, 4, 5, 9, 5, 66, 0))
PROMPT = {"3": {"class_type": "RandomNoise", "inputs": {"noise_seed": 42, "noise": ["4", 0]}},
          "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "a/b:c"}, "_meta": {"title": "My sampler"}},
          "5": {"class_type": "CFGGuider", "inputs": {"cfg": 2.0, "flag": True}},
          "6": {"class_type": "CFGGuider", "inputs": {"cfg": 3.5}, "_meta": {"title": "RandomNoise"}}}


@pytest.fixture
def output(tmp_path):
    folder_paths.set_output_directory(str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.mark.parametrize("prefix, name", [
    ("lodestar/take", "lodestar/take"),
    ("%date:yyyy-MM-dd%/take", "2026-03-07/take"),
    ("%date:yy-M-d_hh.mm.ss%", "26-3-7_04.05.09"),
    ("%date:h:m:s%", "4_5_9"),
    ("%date:yyyyMMdd%_%date:hhmmss%", "20260307_040509"),
    ("%date:yyy%", "yyy"),
    ("%year%-%month%-%day% %hour%%minute%%second%", "2026-03-07 040509"),
    ("%width%x%height%", "832x480"),
    ("seed %RandomNoise.noise_seed%", "seed 42"),
    ("%My sampler.sampler_name%", "a_b_c"),
    ("%CFGGuider.cfg% %CFGGuider.flag%", "2 true"),
    ("50% of %width% and 100%", "50% of %width% and 100%"),
    ("%", "%"), ("%%", "%%"), ("%other%", "%other%"), ("%a.b.c%", "%a.b.c%"),
])
def test_tokens_are_filled_in_as_comfyui_does(prefix, name):
    """Where text between two signs is no token, those two belong together and stay."""
    assert fill_in(prefix, 832, 480, PROMPT, NOW) == name


@pytest.mark.parametrize("prefix, words", [
    ("%KSampler.seed%", "%KSampler.seed% names no node in this graph. Write the class or the title of a node"),
    ("a%RandomNoise.seed%", "%RandomNoise.seed% names no widget of RandomNoise in this graph"),
    ("%RandomNoise.noise%", "%RandomNoise.noise% names no widget of RandomNoise in this graph")])
def test_a_token_of_nothing_is_refused(prefix, words):
    with pytest.raises(ValueError, match=words):
        fill_in(prefix, 832, 480, PROMPT, NOW)


@pytest.mark.parametrize("prefix", ["%year%-%month%-%day%_%hour%%minute%%second%/%width%x%height%", "%width%%", "a%b"])
def test_what_the_server_fills_in_is_what_comfyui_fills_in(output, monkeypatch, prefix):
    """Against its own function, at one and the same second."""
    monkeypatch.setattr(time, "localtime", lambda *when: NOW)
    _, name, _, subfolder, _ = folder_paths.get_save_image_path(prefix, str(output), 832, 480)
    assert fill_in(prefix, 832, 480, {}, NOW) == (f"{subfolder}/{name}" if subfolder else name)


@pytest.mark.parametrize("prefix", [
    "take", "lodestar/take", "a/b/c", "a\\b", "a b", "\u5149/\u00e9", "a.b", "50%", ".hidden/take", "console/take",
    "com/a", "%date:yyyy-MM-dd%/take", "%Node.widget%", "./a", "a/../b", "nulls", "take."])
def test_names_that_every_system_can_have(output, prefix):
    assert problem_of(prefix) is None


@pytest.mark.parametrize("prefix, words", [
    ("a:b", "Windows cannot have ':' in a file name"), ("a/b|c", "Windows cannot have '|'"),
    ("a<b", "cannot have '<'"), ('a"b', "cannot have '\"'"), ("%date:yyyy%:x", "cannot have ':'"),
    ("CON/a", "'CON' is a device on Windows"), ("a/nul.", "'nul' is a device"), ("a/aux.x/b", "'aux' is a device"),
    ("COM1/a", "'COM1' is a device"), ("lpt\u00b2/a", "is a device"), ("con /a", "is a device"),
    ("a./b", "Windows drops the dot or space at the end of 'a.'"), ("a /b", "the dot or space at the end of 'a '"),
    ("a/b. /c", "at the end of 'b. '"), ("x\x7f", "it must name a file"),
    ("a/" * 600 + "b", "too long for a file name"), ("a" * 5000, "too long for a file name"),
])
def test_names_that_some_system_cannot_have(output, prefix, words):
    problem = problem_of(prefix)
    assert words in problem and "such as lodestar/take" in problem and len(problem) < 400


@pytest.mark.parametrize("loop", ["loop", "deep/loop"])
def test_a_loop_of_links_is_said(output, loop):
    (output / loop).parent.mkdir(parents=True, exist_ok=True)
    (output / loop).symlink_to(output / loop)
    assert "a path that cannot be followed ([Errno" in problem_of(f"{loop}/a/take")


def test_a_link_out_of_the_output_folder_is_refused(output, tmp_path):
    output.mkdir()
    (output / "out").symlink_to(tmp_path)
    assert "leaves ComfyUI's output folder" in problem_of("out/take")


def test_numbers_go_on_where_comfyui_s_own_would(output):
    """Beside files of other nodes, and for names that only differ in their case or in what follows."""
    (output / "sub").mkdir(parents=True)
    for name in ("take_00007_.png", "take_x_00009_.mp4", "Take_00012_.mp4", "takes_00015_.mp4"):
        (output / "sub" / name).touch()
    names = free_paths("sub/take", 64, 64)
    assert [next(names).name for _ in range(2)] == ["take_00008_.mp4", "take_00009_.mp4"]
    path = next(free_paths("a\\b/c", 64, 64))
    assert path == output / "a" / "b" / "c_00001_.mp4" and path.parent.is_dir() and subfolder_of(path) == "a/b"
    assert subfolder_of(output / "a.mp4") == "" and subfolder_of(output / ".b" / "a.mp4") == ".b"


def test_tags_are_json_whatever_the_graph_holds(monkeypatch):
    """ComfyUI itself writes NaN where an IS_CHANGED fails, and puts whatever it returns into the prompt."""
    prompt = {"1": {"is_changed": [float("nan"), float("-inf")], "inputs": {"a": (1, 2.5, float("inf")), "b": "NaN"}},
              "2": {"is_changed": {3: {1}}, "inputs": {"text": "\u00e9\ud800\0"}}}
    tags = graph_tags(prompt, {"workflow": {"x": float("nan")}, "other": None})

    def refuse(constant):
        raise AssertionError(constant)

    read = {name: json.loads(text, parse_constant=refuse) for name, text in tags.items()}
    assert read == {"workflow": {"x": None}, "other": None, "prompt": {
        "1": {"is_changed": [None, None], "inputs": {"a": [1, 2.5, None], "b": "NaN"}},
        "2": {"is_changed": {"3": "{1}"}, "inputs": {"text": "\u00e9\ud800\0"}}}}
    assert all(text.isascii() for text in tags.values())
    monkeypatch.setattr(args, "disable_metadata", True)
    assert graph_tags(prompt, {"workflow": {}}) == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said_before_anything_is_made(output):
    output.mkdir()
    output.chmod(0o500)
    assert f"ComfyUI may not write into {output}" in problem_of("lodestar/take")
