"""Is the puppet good enough to be exported: `python -m experiments.claims.gate --network FILE --vae FILE`.

Held-out characters speak for a minute with a picture 12 frames ahead; what the face probe reads of them against WANTED,
and with --sheet a picture of them at 0, 30 and 60 s beside the truth. Ends with 1 where something is missed.
"""
import argparse
import json
import sys
from pathlib import Path

from lib import environment
from lib.pack import load_pack

PACK = environment.PACK

SECONDS = 60.0
EVERY = 20              # chunks between those that are measured: a minute's first, middle and last
LAST = 4                # chunks at the end whose borders are measured
WANTED = {"sharpness": 0.6, "sync": 0.65, "letters": 0.9}
MOST = {"seams": 1.5}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, default=PACK / "models/diffusion_models/lodestar_puppet.safetensors")
    parser.add_argument("--vae", type=Path, default=PACK / "models/vae/lodestar_puppet_vae.safetensors")
    parser.add_argument("--characters", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--corpus", type=Path, help="speech, if not the one in the cache")
    parser.add_argument("--sheet", type=Path, help="a picture to be written")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    return parser.parse_args()


def measure_network(options: argparse.Namespace) -> dict[str, float]:
    """The figures; writes the sheet."""
    import torch
    from lodestar.training.puppet.face_probe import load_face_probe
    from lodestar.training.puppet.network import load_trained
    from lodestar.training.puppet.speech import load_tracks
    from lodestar.training.puppet.vae import SIZE
    from lodestar.training.puppet.world import World

    from .conditions import CONDITIONS, chunks_for, chunks_to_measure
    from .measures import figures, numbers, predictions
    from .takes import cast, frames_of_chunk, make_take
    from .vae import PuppetVAE
    from .verdicts import AHEAD
    codec, world = PuppetVAE(options.vae), World(load_tracks(options.corpus) if options.corpus else None, size=SIZE)
    players = cast(world, codec, options.characters, chunks_for(options.seconds), silent=False)
    latents = make_take(load_trained(options.network), codec, CONDITIONS[AHEAD], players)
    chunks = tuple(sorted({0, *chunks_to_measure(players.chunks, EVERY)}))
    shown: dict[int, torch.Tensor] = {}

    def frames_of(chunk: int) -> torch.Tensor:
        shown[chunk] = frames_of_chunk(codec, latents, chunk)
        return shown[chunk]

    found = figures(predictions(load_face_probe(), codec, players, SIZE, chunks, frames_of), players, chunks)
    result = {name: float(found[name].mean()) for name in ("identity", "identity_end", "sync", "letters", "sharpness")}
    result["seams"] = seam_score(codec, latents, players.chunks)
    if options.sheet:
        true = {chunk: torch.cat([take.frames(numbers(chunk)[-1:], SIZE) for take in players.takes]) / 255
                for chunk in chunks}
        draw_sheet([part for chunk in chunks for part in (true[chunk], shown[chunk][:, -1])], options.sheet)
    return result


def list_failures(found: dict[str, float]) -> list[str]:
    return [f"{name}: got {found[name]:.3f}, wanted {least} or more" for name, least in WANTED.items()
            if not found[name] >= least] + [f"{name}: got {found[name]:.3f}, wanted {most} or less"
                                            for name, most in MOST.items() if not found[name] <= most]


def seam_score(codec, latents, chunks: int) -> float:
    """The mean over characters, at the borders between the last chunks."""
    import torch
    from lodestar.pipelines.metrics.seam import Seams

    from .conditions import NEW, TIMELINE
    from .takes import WARM
    last, each = min(LAST, chunks), NEW * TIMELINE.temporal_ratio
    if last < 2:
        raise ValueError(f"got {chunks} chunk, wanted at least 2: there is no border to look at")
    scores = []
    for own in latents[:, :, -NEW * last - WARM:].split(1):
        seams = Seams(float(TIMELINE.fps), [each * border for border in range(1, last)])
        seams.add(codec.decode(own)[0, -each * last:])
        scores.append(seams.result()["score"])
    return float(torch.tensor(scores).mean())


def draw_sheet(columns: list, path: Path) -> None:
    """Columns of (characters, H, W, 3) in 0..1: truth and take in turn, at each time."""
    import torch
    from PIL import Image
    rows = torch.stack(columns, 1)      # (characters, columns, H, W, 3)
    half = -(-len(rows) // 2)
    blocks = [torch.cat([torch.cat(list(row), 1) for row in part]) for part in rows.split(half)]
    blocks = [torch.nn.functional.pad(block, (0, 0, 0, 0, 0, half * rows.shape[2] - len(block))) for block in blocks]
    Image.fromarray((255 * torch.cat(blocks, 1)).round().byte().numpy()).save(path)


def main() -> None:
    options = arguments()
    comfyui = environment.find_comfyui(environment.NEWEST, environment.own_comfyui())
    if comfyui is None:
        sys.exit(f"the puppet's VAE is that of a ComfyUI {environment.NEWEST}: set COMFYUI_PATH to one")
    environment.enter(environment.make_environment(environment.requirements(comfyui)))
    load_pack()
    found = measure_network(options)
    text = json.dumps({name: round(value, 4) for name, value in found.items()}, indent=1)
    if options.json:
        options.json.write_text(text, encoding="utf-8")
    sys.stdout.write(text + "\n")
    sys.exit("\n".join(list_failures(found)) or 0)


if __name__ == "__main__":
    main()
