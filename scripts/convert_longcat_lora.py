"""Makes an ordinary LoRA file of an official LongCat one: `python scripts/convert_longcat_lora.py IN OUT`.

OUT works with ComfyUI's own LoRA loaders and changes the weights by exactly as much. Load LongCat LoRA (Lodestar) reads
official files as they are. Runs in any Python that has torch and safetensors; else an environment is made, once.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import importlib.util
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="IN", help="an official LongCat LoRA, .safetensors")
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write, for example in models/loras")
    options = parser.parse_args()
    if not options.source.is_file():
        sys.exit(f"{options.source}: no such file")
    if options.target.exists() or options.target.suffix != ".safetensors":
        sys.exit(f"{options.target}: wanted the name of a new .safetensors file")
    if not all(map(importlib.util.find_spec, ("torch", "safetensors"))):
        environment.stop_on_signals()
        environment.enter(environment.make_environment(environment.requirements(None)))
    convert(options.source, options.target)


def convert(source: Path, target: Path) -> None:
    """Write `target` whole or not at all, and say what is in it."""
    from lib.pack import load_pack
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    load_pack()
    from lodestar.networks.longcat.lora import ordinary
    from lodestar.networks.weight_files import read_weights
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        pairs = ordinary(read_weights(source)[0])
        save_file(pairs, unfinished)
        unfinished.replace(target)
    except (ValueError, SafetensorError, OSError) as error:
        unfinished.unlink(missing_ok=True)
        sys.exit(f"{source}: {error}")
    print(f"{target}: {len(pairs) // 3} layers, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
