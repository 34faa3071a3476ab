"""The zip that the Comfy registry hands out, as comfy-cli's `comfy node pack` makes it: what git tracks, without what
.comfyignore names, and with `includes` of pyproject.toml. `python tests/rig/registry_zip.py OUT.zip` writes it."""
import argparse
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]


def tracked(*options: str) -> set[str]:
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", *options]
    listed = subprocess.run(command, cwd=PACK, capture_output=True, check=True).stdout
    return set(filter(None, listed.decode().split("\0")))


def contents() -> list[str]:
    """Paths from the pack's folder. Git reads .comfyignore by its own rules, which are those comfy-cli uses."""
    return sorted(name for name in tracked() - tracked("-ci", "-X", ".comfyignore") if (PACK / name).is_file())


def write(target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in contents():
            packed.write(PACK / name, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, metavar="OUT.zip")
    target = parser.parse_args().target
    write(target)
    sizes: Counter[str] = Counter()
    with zipfile.ZipFile(target) as packed:
        for info in packed.infolist():
            sizes[info.filename.partition("/")[0]] += info.compress_size
    for folder, size in sizes.most_common():
        print(f"{size / 1e6:8.2f} MB  {folder}")
    print(f"{target.stat().st_size / 1e6:8.2f} MB  {target}")


if __name__ == "__main__":
    main()
