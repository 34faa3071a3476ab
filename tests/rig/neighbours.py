"""Five packs that many people have, beside this one: `python tests/rig/neighbours.py` fetches them from GitHub, loads
all in one ComfyUI of each tested version, and makes one take that goes through a node of every one of them.

    --packs FOLDER      where their clones lie already, by the names below; default: cloned into the cache
    --host VERSION      only this ComfyUI
"""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from lib import environment  # noqa: E402, isort: skip - it refuses a Python that is too old

import argparse  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from importlib.machinery import PathFinder  # noqa: E402

PACKS = ("Kosinkadink/ComfyUI-VideoHelperSuite", "kijai/ComfyUI-KJNodes", "rgthree/rgthree-comfy",
         "city96/ComfyUI-GGUF", "chrisgoringe/cg-use-everywhere")
LIBRARIES = {"imageio_ffmpeg": "imageio-ffmpeg", "imageio": "imageio", "color_matcher": "color-matcher", "ddt": "ddt",
             "docutils": "docutils", "mss": "mss", "gguf": "gguf", "google": "protobuf",
             "matplotlib": "matplotlib", "contourpy": "contourpy", "cycler": "cycler", "fontTools": "fonttools",
             "kiwisolver": "kiwisolver", "pyparsing": "pyparsing", "dateutil": "python-dateutil", "six": "six"}
TINY = "lodestar_tiny_wan22_s2v"


def fetch(folder: Path) -> list[Path]:
    """Clones of all packs in `folder`; those that are there stay as they are."""
    for pack in PACKS:
        target = folder / pack.partition("/")[2]
        if not target.is_dir():
            subprocess.run(["git", "clone", "--depth", "1", f"https://github.com/{pack}", str(target)], check=True)
    return [folder / pack.partition("/")[2] for pack in PACKS]


def bring_libraries(folder: Path) -> None:
    """What they import and this environment lacks, into a folder of its own; this one's libraries stay."""
    lacking = [package for module, package in LIBRARIES.items()
               if not (PathFinder.find_spec(module) or PathFinder.find_spec(module, [str(folder)]))]
    if lacking:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run(pip + lacking, check=True)


def show_libraries(folder: Path, custom_nodes: Path) -> None:
    """A pack of no nodes that puts `folder` behind the server's own libraries, before any pack is loaded."""
    pack = custom_nodes / "libraries"
    pack.mkdir()
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (pack / "prestartup_script.py").write_text(f"import sys\nsys.path.append({str(folder)!r})\n")


def write_gguf_twin(models: Path) -> str:
    """The tiny S2V as GGUF. A convolution has five axes, of which GGUF knows four: its shape stands beside it."""
    import tiny_gguf
    from safetensors.torch import load_file
    weights = load_file(models / "diffusion_models" / f"{TINY}.safetensors")
    shapes = {f"comfy.gguf.orig_shape.{name}": list(value.shape) for name, value in weights.items() if value.ndim > 4}
    stored = {name: tiny_gguf.plain(weight) for name, weight in weights.items()}
    return tiny_gguf.write_gguf(models / "diffusion_models" / f"{TINY}.gguf", stored, shapes).name


def combined(server, gguf: str):
    """A take of a GGUF file, its seeds from rgthree's and use-everywhere's nodes, its picture fitted by KJNodes; its
    frames, chosen by rgthree's switch, written once more by VideoHelperSuite."""
    from served_takes import tiny_take
    graph = tiny_take(server, "neighbours/take", steps=1, max_seconds=1.0)
    graph.the("UNETLoader").become("UnetLoaderGGUF", unet_name=gguf)
    graph.the("RandomNoise").set(noise_seed=graph.add("Seed (rgthree)", seed=42)[0])
    graph.the("LodestarPlanTake").set(seed_step=graph.add("Seed Everywhere", seed=3)[0])
    fitted = graph.add("ImageResizeKJv2", image=graph.the("LoadImage")[0], width=64, height=64, device="cpu",
                       upscale_method="lanczos", keep_proportion="crop", pad_color="0, 0, 0", crop_position="center",
                       divisible_by=2)
    graph.the("LodestarLongTake").set(reference=fitted[0])
    parts = graph.add("GetVideoComponents", video=graph.the("LodestarLongTake")[0])
    chosen = graph.add("Any Switch (rgthree)", any_01=parts[0])
    graph.add("VHS_VideoCombine", images=chosen[0], audio=parts[1], frame_rate=parts[2], loop_count=0, pingpong=False,
              filename_prefix="neighbours/again", format="video/h264-mp4", save_output=True)
    return graph


def run(comfyui: Path, packs: list[Path], libraries: Path) -> None:
    """Raises what went wrong; silence is success."""
    import av
    from lib import comfy_server
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        base = comfy_server.prepare_base(Path(temporary), environment.tiny_models(Path(sys.executable)))
        for pack in packs:
            environment.link_or_copy(pack, base / "custom_nodes" / pack.name)
        show_libraries(libraries, base / "custom_nodes")
        gguf = write_gguf_twin(base / "models")
        with comfy_server.start_server(comfyui, base) as server:
            log = server.log.read_text(encoding="utf-8", errors="replace")
            loaded = {node["python_module"].rpartition(".")[2] for node in server.get("/object_info").values()}
            for pack in packs + [base / "custom_nodes" / "ComfyUI-Lodestar"]:
                assert pack.name in loaded, f"{pack.name} did not load:\n{log}"
            server.run(combined(server, gguf).prompt())
        videos = sorted((base / "output" / "neighbours").glob("*.mp4"))
        frames = {video.name: sum(1 for _ in av.open(str(video)).decode(video=0)) for video in videos}
    assert len(frames) >= 2 and set(frames.values()) == {16}, f"one second at 16 fps, twice; got {frames}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, metavar="FOLDER")
    parser.add_argument("--host", choices=(environment.NEWEST, environment.FLOOR))
    options = parser.parse_args()
    environment.stop_on_signals()
    trees = {version: environment.find_comfyui(version) for version in (environment.NEWEST, environment.FLOOR)}
    environment.enter(environment.make_environment(environment.requirements(trees[environment.NEWEST])))
    folder = environment.cache_folder() / "neighbours"
    packs = fetch((options.packs or folder).expanduser().resolve())
    bring_libraries(folder / "libraries")
    for version in [options.host] if options.host else trees:
        comfyui = trees[version]
        if comfyui is None:
            sys.exit(f"ComfyUI {version} is not here and could not be cloned")
        run(comfyui, packs, folder / "libraries")
        print(f"ComfyUI {version}: {', '.join(pack.name for pack in packs)} and Lodestar load together; one take that "
              "goes through all of them has its frames", flush=True)


if __name__ == "__main__":
    main()
