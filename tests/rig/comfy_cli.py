"""comfy-cli's own checks of the pack and of its workflows: `python tests/rig/comfy_cli.py`, on the newest ComfyUI.

It is installed into an environment of its own, once. The models are tiny files of the official names.
"""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from lib import environment  # noqa: E402, isort: skip - it refuses a Python that is too old

import subprocess  # noqa: E402
import tempfile  # noqa: E402

PACKAGE = "comfy-cli==1.23.0"


def check(command: list[str]) -> bool:
    """Whether comfy-cli finds nothing; what it says otherwise is shown."""
    done = subprocess.run(command, cwd=environment.PACK, text=True, capture_output=True)
    if done.returncode:
        print(f"{' '.join(command[1:])}\n{done.stdout}{done.stderr}", flush=True)
    return done.returncode == 0


def main() -> None:
    cli = [str(environment.make_environment([PACKAGE]).with_name("comfy")), "--skip-prompt", "--no-json"]
    comfyui = environment.newest_comfyui()
    environment.enter(environment.make_environment(environment.requirements(comfyui)))
    environment.bring_comfyui(comfyui)
    import joint_models
    import stand_ins
    from lib import comfy_server
    found = {"the pack": check([*cli, "node", "validate"])}
    with tempfile.TemporaryDirectory() as folder:
        base = comfy_server.prepare_base(Path(folder), environment.tiny_models(Path(sys.executable)))
        stand_ins.place(base / "models")
        joint_models.write_official(base / "models")
        with comfy_server.start_server(comfyui, base) as server:
            for path in sorted((environment.PACK / "workflows" / "api").glob("*.json")):
                found[path.name] = check([*cli, "workflow", "validate", "--workflow", str(path), "--where", "local",
                                          "--port", server.url.rpartition(":")[2]])
    sys.exit("\n".join(f"{name}: comfy-cli finds fault" for name, fine in found.items() if not fine) or
             print(f"comfy-cli finds no fault in the pack and {len(found) - 1} workflows"))


if __name__ == "__main__":
    main()
