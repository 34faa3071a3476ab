"""The scripts without ComfyUI: finding one, making an environment, counting results, filling a workflow in, bars."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import demo
import pytest
from lib import comfy_server, downloads, environment

pytestmark = pytest.mark.once

SCRIPTS = environment.PACK / "scripts"


@pytest.fixture(scope="module")
def run_tests():
    """scripts/test.py, whose own name belongs to Python."""
    spec = importlib.util.spec_from_file_location("lodestar_run_tests", SCRIPTS / "test.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LODESTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return environment.cache_folder()


def comfyui(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "requirements.txt").write_text("torch\ntorchvision>=0.1\n# a comment\nav>=16 # decoding\n")
    return folder.resolve()


# ---------------------------------------------------------------- ComfyUI

def test_the_users_comfyui_is_found_in_order(tmp_path, monkeypatch):
    named, variable, home = (comfyui(tmp_path / name, "0.40.0") for name in ("named", "variable", "home"))
    pack = home / "custom_nodes" / "ComfyUI-Lodestar"
    assert environment.own_comfyui(pack=tmp_path / "elsewhere" / "pack") is None
    assert environment.own_comfyui(pack=pack) == home
    monkeypatch.setenv("COMFYUI_PATH", str(variable))
    assert environment.own_comfyui(pack=pack) == variable
    assert environment.own_comfyui(named, pack=pack) == named


def test_a_named_folder_without_comfyui_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"--comfyui is .*nowhere, which holds no ComfyUI"):
        environment.own_comfyui(tmp_path / "nowhere")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"\$COMFYUI_PATH is "):
        environment.own_comfyui()


@pytest.mark.parametrize(("own", "serves"), [
    (environment.NEWEST, {environment.NEWEST}), (environment.FLOOR, {environment.FLOOR}),
    ("0.40.0", {environment.NEWEST}), ("0.9.0", {environment.NEWEST})])
def test_the_users_comfyui_serves_for_its_version(own, serves, tmp_path, cache):
    versions = (environment.NEWEST, environment.FLOOR)
    cached = {version: comfyui(cache / f"ComfyUI-{version}", version) for version in versions}
    theirs = comfyui(tmp_path / "theirs", own)
    for version in versions:
        assert environment.find_comfyui(version, theirs) == (theirs if version in serves else cached[version])


def test_comfyui_is_cloned_from_its_tag(tmp_path, cache, monkeypatch):
    source = comfyui(tmp_path / "source", "9.9.9")
    git = ["git", "-C", str(source), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v9.9.9"]):
        subprocess.run(git + arguments, check=True)
    monkeypatch.setattr(environment, "COMFYUI_URL", source.as_uri())
    (cache / "ComfyUI-9.9.9").mkdir()  # what an interrupted run of long ago may have left
    assert environment.find_comfyui("9.9.9") == cache / "ComfyUI-9.9.9"
    assert environment.comfyui_version(cache / "ComfyUI-9.9.9") == "9.9.9"


def test_a_clone_that_fails_says_so_in_one_line_and_leaves_nothing(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setattr(environment, "COMFYUI_URL", (tmp_path / "nothing").as_uri())
    assert environment.find_comfyui("9.9.9") is None
    assert "cannot be had" in capsys.readouterr().out.splitlines()[-1]
    assert [path.name for path in cache.iterdir()] == ["ComfyUI-9.9.9.lock"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.find_comfyui("9.9.9") is None
    assert "git is not installed" in capsys.readouterr().out


# ---------------------------------------------------------------- environment

def test_torch_is_named_once_and_everything_else_is_kept(tmp_path):
    wanted = environment.requirements(comfyui(tmp_path / "comfyui", "0.40.0"))
    assert [line for line in wanted if line.startswith("torch")] == list(environment.TORCH)
    assert "av>=16" in wanted and "pytest" in wanted
    assert set(environment.requirement_lines(environment.PACK / "requirements.txt")) <= set(wanted)
    assert set(environment.WITHOUT_COMFYUI) <= set(environment.requirements(None))


def test_an_environment_is_made_once_and_redone_when_half_made(cache, capsys):
    python = environment.make_environment([])
    folder = python.parent.parent
    found = subprocess.run([str(python), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert Path(found.stdout.strip()).resolve() == folder.resolve()
    (folder / "mark").touch()
    assert environment.make_environment([]) == python and (folder / "mark").exists()
    (folder / "ready").unlink()
    assert environment.make_environment([]) == python and not (folder / "mark").exists()
    assert capsys.readouterr().out.count("making the environment") == 2


def test_a_failed_installation_shows_why_and_is_not_taken_for_made(tmp_path, cache):
    wanted = [str(tmp_path / "missing-1.0-py3-none-any.whl")]
    with pytest.raises(SystemExit, match="missing-1.0"):
        environment.make_environment(wanted)
    assert not list(cache.glob("env-*/ready"))


def test_downloads_say_what_how_much_and_how_long(monkeypatch):
    """Of 1,000 MB, 250 are here after 50 s: 150 s are left."""
    coming = downloads.Downloads(1000)
    assert not coming.read_line("Collecting torch==2.11.0 (from -r requirements.txt (line 1))")
    assert coming.read_line("  Downloading torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl (250.0 MB)")
    assert coming.describe(1) == "     1 s  downloading torch, 250 MB; 0 MB of about 1.0 GB are here"
    assert coming.read_line("  Downloading https://a.b/c/pillow-13.0.0-cp311-none.whl (7100 kB)")
    assert coming.describe(50) == (
        "    50 s  downloading pillow, 7 MB; 250 MB of about 1.0 GB are here, about 2 min left")
    assert coming.describe(5).endswith("about 15 s left")
    assert coming.read_line("Installing collected packages: torch, pillow")
    assert coming.describe(60) == "    60 s  unpacking, all 257 MB are here"
    more = downloads.Downloads(100)     # more than was thought: never less than nothing is left
    more.read_line("  Downloading a-1-py3.whl (1.5 GB)")
    more.read_line("  Downloading b-1-py3.whl (2.4 kB)")
    assert more.describe(10).endswith("1.5 GB of about 1.5 GB are here, about 1 s left")


@pytest.mark.parametrize(("alone", "there", "commands", "says"), [
    (True, True, 2, "torch for the CPU: about 900 MB"), (True, False, 2, "torch for CUDA: about 2.4 GB"),
    (False, True, 1, "torch for CUDA: about 2.4 GB")])
def test_a_machine_without_a_card_gets_the_small_torch_where_there_is_one(tmp_path, monkeypatch, capsys, alone, there,
                                                                          commands, says):
    ran = []
    monkeypatch.setattr(downloads, "cpu_alone", lambda: alone)

    def run(command, log, coming):
        ran.append(command)
        log.write_text("ERROR: no such index", encoding="utf-8")
        return int(downloads.CPU_INDEX in command and not there)
    monkeypatch.setattr(downloads, "run", run)
    downloads.install(Path(sys.executable), ["torch==2.11.0", "av>=16"], tmp_path)
    assert len(ran) == commands and says in capsys.readouterr().out
    assert ran[-1][-2:] == ["-r", str(tmp_path / "requirements.txt")]
    if commands == 2:
        assert ran[0][-3:] == ["--index-url", downloads.CPU_INDEX, "torch==2.11.0"]
    downloads.install(Path(sys.executable), ["av>=16"], tmp_path)
    assert len(ran) == commands + 1 and "a few packages" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="there it waits without a word")
def test_one_process_at_a_time_and_the_other_says_that_it_waits(tmp_path):
    code = (f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from lib import environment; import pathlib, time\n"
            f"with environment.only_one(pathlib.Path({str(tmp_path / 'lock')!r}), 'taken'):\n"
            "    print('in', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "in\n"
        waiter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True)
        assert waiter.stderr.readline() == "taken\n" and waiter.poll() is None
        holder.kill()  # the system lets go of a lock whose holder died
    assert waiter.stdout.readline() == "in\n"
    waiter.kill()
    waiter.communicate()


def test_links_follow_and_are_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("1")
    for target in (tmp_path / "b", tmp_path / "deep" / "c"):
        for _ in range(2):
            environment.link_or_copy(tmp_path / "a", target)
        assert (target / "file").read_text() == "1"
    assert (tmp_path / "a" / "file").exists()


@pytest.mark.parametrize("name", ["test.py", "make_workflows.py"])
def test_a_command_that_needs_the_tests_says_where_they_are(tmp_path, name):
    """In the registry's package, which has none; from a folder of any name."""
    shutil.copytree(SCRIPTS, tmp_path / "my päck" / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    ended = subprocess.run([sys.executable, str(tmp_path / "my päck" / "scripts" / name)], capture_output=True,
                           encoding="utf-8")
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.startswith(f"{name}: what this needs lies in ") and environment.REPOSITORY in ended.stderr


# ---------------------------------------------------------------- test.py

def test_results_are_counted_and_a_tier_that_cannot_start_is_a_failure(run_tests, tmp_path, capsys):
    tests = tmp_path / "test_it.py"
    tests.write_text("import pytest\ndef test_a(): pass\ndef test_b(): pass\ndef test_c(): assert 0\n"
                     "@pytest.mark.skip\ndef test_d(): pass\n@pytest.fixture\ndef broken(): 1 / 0\n"
                     "def test_e(broken): pass\n")
    runner = run_tests.Runner(Path(sys.executable), None, False)
    outcome = runner.pytest("mine", [str(tests)])
    assert (outcome.passed, outcome.failed, outcome.skipped) == (2, 2, 1) and "FAILED" in outcome.row()
    assert [test.split("::")[1] for test in outcome.failures] == ["test_c", "test_e"]
    assert "[mine] " in capsys.readouterr().out
    outcome = runner.pytest("mine", [str(tmp_path / "nothing_here")])
    assert (outcome.passed, outcome.failed) == (0, 1) and "exit code 4" in outcome.row()
    (tmp_path / "test_unreadable.py").write_text("import nothing_of_this_name\n")
    outcome = runner.pytest("mine", [str(tmp_path)])
    assert (outcome.passed, outcome.failed, outcome.skipped) == (2, 3, 1)
    runner.keyword = "test_a"
    assert runner.pytest("mine", [str(tests)]).passed == 1
    runner.keyword = "nothing_like_this"
    assert runner.pytest("mine", [str(tests)]).failed == 0


@pytest.mark.skipif(os.name == "nt", reason="process groups are looked at with POSIX means")
def test_a_test_that_hangs_is_ended_with_what_it_started_and_its_tier_goes_on(run_tests, tmp_path, monkeypatch, capsys):
    tests = tmp_path / "test_it.py"
    tests.write_text(f"import os, pathlib, subprocess, sys\ndef test_a(): pass\ndef test_hangs():\n"
                     f"    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
                     f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n    child.wait()\n"
                     "def test_b(): pass\ndef test_crashes(): os._exit(3)\ndef test_c(): assert 0\n"
                     "def test_d(): pass\n")
    monkeypatch.setattr(run_tests, "TEST_LIMIT_SECONDS", 4)
    outcome = run_tests.Runner(Path(sys.executable), None, False).pytest("mine", [str(tests)])
    assert (outcome.passed, outcome.failed) == (3, 3) and 4 <= outcome.seconds < 60
    said = capsys.readouterr().out
    assert "test_it.py::test_hangs was running when" in said and "test_it.py::test_crashes was running when" in said
    child = (tmp_path / "pid").read_text()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout.strip()
    assert state in ("", "Z")


def test_what_needs_no_second_look_is_counted_once(run_tests, monkeypatch):
    """Slow tests wait for the night; on a lesser processor and an older ComfyUI only what may differ there runs."""
    asked = []
    monkeypatch.setattr(run_tests.Runner, "run", lambda self, tier, arguments, **variables: asked.append(
        (tier, arguments[arguments.index("-m") + 1], variables.get("ATEN_CPU_CAPABILITY"))) or 0)
    trees = {environment.NEWEST: Path("new"), environment.FLOOR: Path("old")}
    runner = run_tests.Runner(Path(sys.executable), None, False)
    run_tests.run_tiers(runner, ["torch", "comfy"], trees)
    newest, floor = f"comfy-{environment.NEWEST}", f"comfy-{environment.FLOOR}"
    assert sorted(asked) == sorted([
        ("torch", "not slow", None), ("torch-avx2", "not once and not slow", "avx2"),
        ("torch-default", "not once and not slow", "default"), (newest, "not slow", None),
        (floor, "not once and not slow", "avx2")])
    asked.clear()
    runner.slow = True
    run_tests.run_tiers(runner, ["comfy"], trees)
    assert sorted(asked) == sorted([(newest, "", None), (floor, "not once", "avx2")])


@pytest.mark.parametrize("require_all", [False, True])
def test_a_missing_tier_is_one_line_and_a_failure_only_when_all_are_required(run_tests, require_all, capsys):
    runner = run_tests.Runner(Path(sys.executable), None, require_all)
    outcome = run_tests.web_tier(runner, None)
    assert outcome.failed == int(require_all) and "a ComfyUI" in outcome.row()
    assert capsys.readouterr().out.count("\n") == 1


def test_a_browser_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "BROWSER_PLACES", (str(tmp_path / "Chrome"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM_PATH", raising=False)
    assert environment.find_chromium() is None
    (tmp_path / "Chrome").touch()
    assert environment.find_chromium() == str(tmp_path / "Chrome")
    on_path = tmp_path / ("google-chrome.exe" if os.name == "nt" else "google-chrome")
    on_path.touch()
    on_path.chmod(0o755)
    assert Path(environment.find_chromium()) == on_path
    monkeypatch.setenv("CHROMIUM_PATH", str(tmp_path / "named"))
    assert environment.find_chromium() is None
    (tmp_path / "named").touch()
    assert environment.find_chromium() == str(tmp_path / "named")


# ---------------------------------------------------------------- comfy_server.py

def test_a_refusal_names_node_and_input():
    error = {"type": "value_smaller_than_min", "message": "Value 0 smaller than min of 1", "details": "fps"}
    body = {"error": {"message": "Prompt outputs failed validation", "details": ""},
            "node_errors": {"4": {"class_type": "LodestarPlanTake", "errors": [error], "dependent_outputs": ["7"]}}}
    assert str(comfy_server.PromptRefused(body)) == "LodestarPlanTake (node 4): Value 0 smaller than min of 1: fps"
    assert str(comfy_server.PromptRefused({"error": body["error"]})) == "Prompt outputs failed validation"
    assert str(comfy_server.PromptRefused({"error": "No prompt"})) == "No prompt"
    assert json.loads(str(comfy_server.PromptRefused({"else": 1}))) == {"else": 1}


def test_a_server_that_is_not_there_is_named():
    port = comfy_server.free_port()
    for call in (lambda client: client.get("/system_stats"), lambda client: client.run({})):
        with pytest.raises(comfy_server.ServerGone, match=f"no ComfyUI answers at http://127.0.0.1:{port}"):
            call(comfy_server.Client(f"127.0.0.1:{port}/"))


def test_a_server_that_dies_at_start_shows_its_last_words(tmp_path):
    (tmp_path / "main.py").write_text("import sys; sys.exit('no such option')")
    with pytest.raises(comfy_server.ServerGone, match="exit code 1;[^$]*no such option"):
        with comfy_server.start_server(tmp_path, comfy_server.prepare_base(tmp_path / "base")):
            pass


def test_a_server_is_stopped_however_the_block_ends(tmp_path):
    (tmp_path / "main.py").write_text(
        "import http.server, sys\nclass H(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'{}')\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1])), H).serve_forever()\n")
    with pytest.raises(KeyboardInterrupt):
        with comfy_server.start_server(tmp_path, comfy_server.prepare_base(tmp_path / "base")) as server:
            assert server.process.poll() is None
            raise KeyboardInterrupt
    assert server.process.poll() is not None


def test_without_a_comfyui_only_the_puppet_can_be_had(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LODESTAR_CACHE", str(tmp_path))
    monkeypatch.setattr(environment, "COMFYUI_URL", (tmp_path / "nothing").as_uri())
    monkeypatch.setattr(environment, "own_comfyui", lambda named: None)
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    options = demo.parse_options([])
    assert demo.host_of(options) is None and options.headless and sys.argv == ["demo.py", "--headless"]
    assert "cannot be had" in capsys.readouterr().out
    tiny = environment.PACK / "tests" / "golden" / "tiny_take.json"
    other = demo.parse_options(["--headless", "--workflow", str(tiny)])
    with pytest.raises(SystemExit, match="tiny_take.json .*--comfyui PATH.*--server URL"):
        demo.host_of(other)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for another Python is a shell script")
@pytest.mark.parametrize(("begun", "goes_on"), [(["-m", "tools.make"], ["-m", "tools.make"]),
                                                (["tools/make.py"], ["tools/make.py"])])
def test_a_command_goes_on_in_its_environment_as_it_was_begun(tmp_path, begun, goes_on):
    """A module of a package needs its package there, too."""
    other = tmp_path / "environment" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    other.chmod(0o755)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "make.py").write_text(f"from lib import environment\nfrom pathlib import Path\n"
                                                f"environment.enter(Path({str(other)!r}))\n")
    said = subprocess.run([sys.executable, *begun, "--hours", "3"], cwd=tmp_path, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(SCRIPTS)}, check=True).stdout
    assert said.split() == [*goes_on, "--hours", "3"]
