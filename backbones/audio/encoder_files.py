"""Speech encoders in models/audio_encoders: what the loader lists, and where each is."""
from pathlib import Path, PurePath

import folder_paths

from .encoder import WEIGHTS

FOLDER, LOG_MEL = "audio_encoders", "log-mel"


def encoder_names() -> list[str]:
    """Sub-folders in the transformers layout as one entry each, then the files that are in none of them."""
    files = [PurePath(name) for name in folder_paths.get_filename_list(FOLDER)]
    folders = {file.parent for file in files if file.name in WEIGHTS and file.parent != PurePath()
               and folder_paths.get_full_path(FOLDER, str(file.parent / "config.json"))}
    return sorted(map(str, folders)) + [str(file) for file in files if file.parent not in folders] + [LOG_MEL]


def encoder_path(name: str) -> Path:
    config = folder_paths.get_full_path(FOLDER, str(PurePath(name) / "config.json"))
    return Path(config).parent if config else Path(folder_paths.get_full_path_or_raise(FOLDER, name))
