"""python scripts/train.py, as a person types it; in process its run goes on, and what is wrong is named."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.host.recipe_choice import plan_by_name, train_by_name
from lodestar.pipelines.training.clip_store import ClipFormat, ClipStore
from lodestar.pipelines.training.run import Settings
from safetensors import safe_open
from training_clips import make_clips

pytestmark = pytest.mark.once
PACK = Path(__file__).resolve().parents[3]


def run(comfyui: Path, *words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, PACK / "scripts" / "train.py", *map(str, words), "--comfyui", comfyui,
                           "--cpu"], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                          timeout=300, check=False)


def test_the_command_trains_and_goes_on(comfyui, tiny_models, tmp_path):
    store = ClipStore.create(tmp_path / "clips", ClipFormat("WanVAE", 16, 64, 64, 8, 4, "15", 16, 3, 2))
    other = ClipStore.create(tmp_path / "other", ClipFormat("WanVAE", 12, 64, 64, 8, 4, "15", 16, 3, 2))
    for number, clip in enumerate(make_clips()):
        names = ("latents", "pictures", "picture_frames")
        store.write(f"clip_{number}", {name: clip[name] for name in names}, {"source": clip.info.name})
    base = tiny_models / "models" / "diffusion_models" / "lodestar_tiny_longcat_video.safetensors"
    words = ("flexible anchor", store.folder, tmp_path / "out", "--base", base, "--loader", "longcat", "--rank", 2)
    made = run(comfyui, *words, "--steps", 2)
    assert made.returncode == 0 and "lora.safetensors: 2 steps, loss" in made.stdout, made.stderr
    assert "training: memory of a step " in made.stderr
    with safe_open(tmp_path / "out" / "lora.safetensors", "pt") as file:
        assert file.metadata() == {"recipe": "flexible anchor", "steps": "2"}
    model = load_longcat(str(base))
    assert "LoRA with gradient and AdamW 0.0 GB" in str(plan_by_name(model, "stitching", store.folder, Settings(3, 2)))
    with pytest.raises(ValueError, match="recipe: got 'stitch', wanted one of flexible anchor, stitching"):
        train_by_name(model, "stitch", store.folder, tmp_path / "out", Settings(3, 2))
    with pytest.raises(ValueError, match="has latents of 12 channels"):
        train_by_name(model, "stitching", other.folder, tmp_path / "out", Settings(3, 2))
    assert len(train_by_name(model, "flexible anchor", store.folder, tmp_path / "out", Settings(3, 2)).losses) == 3
