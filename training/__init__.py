"""What is trained here, and how. It may use the pack, whose name is `lodestar` whatever its folder is called."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
from lib.pack import load_pack  # noqa: E402

load_pack()
