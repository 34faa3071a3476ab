"""pip, with what it is downloading, how much of all that is, and how long is left. Standard library only."""
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
EXPECTED_MB = {"torch for CUDA": 2400, "torch for the CPU": 900, "": 100}     # of the whole environment; 2026-11
UNITS = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
DOWNLOAD = re.compile(r"\s*Downloading (?:\S*/)?([A-Za-z0-9_.]+?)-\S+ \(([\d.]+) (bytes|kB|MB|GB)\)")
SETTLED_MB = 20         # before that much has come, how fast it comes says nothing


def cpu_alone() -> bool:
    """Whether this is a Linux without a graphics card for torch, whose usual build brings gigabytes of CUDA."""
    return sys.platform == "linux" and not shutil.which("nvidia-smi") and not any(
        Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/kfd", "/dev/nvidia0"))


class Downloads:
    """What pip's lines say: each file as it begins, all of `expected_mb` in the end, about."""

    def __init__(self, expected_mb: float):
        self.expected_mb, self.done_mb, self.coming_mb, self.what = expected_mb, 0.0, 0.0, ""

    def read_line(self, line: str) -> bool:
        """Whether the line is worth telling."""
        if found := DOWNLOAD.match(line):
            self.done_mb += self.coming_mb
            self.coming_mb = float(found[2]) * UNITS[found[3]]
            self.what = f"downloading {found[1]}, {size(self.coming_mb)}"
            return True
        if line.startswith("Installing collected packages"):
            self.done_mb, self.coming_mb, self.expected_mb = self.done_mb + self.coming_mb, 0.0, 0.0
            self.what = f"unpacking, all {size(self.done_mb)} are here"
            return True
        return False

    def describe(self, seconds: float) -> str:
        """`seconds`: since pip began."""
        text = f"  {seconds:4.0f} s  {self.what}"
        if not self.expected_mb:
            return text
        all_mb = max(self.expected_mb, self.done_mb + self.coming_mb)
        text += f"; {size(self.done_mb)} of about {size(all_mb)} are here"
        if self.done_mb < SETTLED_MB:
            return text
        left = seconds / self.done_mb * (all_mb - self.done_mb)
        return text + (f", about {left / 60:.0f} min left" if left >= 90 else f", about {max(left, 1):.0f} s left")


def size(mb: float) -> str:
    return f"{mb / 1e3:.1f} GB" if mb >= 1e3 else f"{mb:.0f} MB"


def install(python: Path, wanted: list[str], folder: Path) -> None:
    """Install `wanted`, torch in its smaller build where that is enough and to be had; exits saying what went wrong."""
    listed = folder / "requirements.txt"
    listed.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    torch, kind = [line for line in wanted if line.startswith("torch")], ""
    if torch:
        kind = "torch for CUDA"
        if cpu_alone():
            command = [*pip, "--retries", "0", "--timeout", "15", "--index-url", CPU_INDEX, *torch]
            if run(command, folder / "pip_cpu.log", Downloads(EXPECTED_MB["torch for the CPU"])) == 0:
                kind = "torch for the CPU"
            else:
                print(f"  no CPU build of torch at {CPU_INDEX}: taking the usual one", flush=True)
    print(f"  {kind or 'a few packages'}: about {size(EXPECTED_MB[kind])} in all to download", flush=True)
    started, log = time.monotonic(), folder / "pip.log"
    if run([*pip, "-r", str(listed)], log, Downloads(EXPECTED_MB[kind])):
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        sys.exit(f"pip failed; the whole output is in {log}:\n{tail}")
    print(f"  installed in {time.monotonic() - started:.0f} s", flush=True)


def run(command: list[str], log: Path, downloads: Downloads) -> int:
    """pip's exit code. Its whole output goes to `log`; a terminal sees one line that changes, a file one every 20 s."""
    started, line_at = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
                          errors="replace") as process, open(log, "w", encoding="utf-8") as kept:
        for line in process.stdout or ():
            kept.write(line)
            if not downloads.read_line(line):
                continue
            now = time.monotonic()
            if sys.stdout.isatty():
                width = shutil.get_terminal_size().columns - 1
                print("\r" + downloads.describe(now - started)[:width].ljust(width), end="", flush=True)
            elif now - line_at > 20:
                line_at = now
                print(downloads.describe(now - started), flush=True)
    if sys.stdout.isatty():
        print()
    return process.returncode
