"""docs/claims.md: the table of claims, what was found for each, all figures, the plots. What people write outside the
marked part stays."""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lodestar.training.puppet.world import FPS
from torch import Tensor

from .conditions import CONDITIONS, DISTANCES
from .measures import FIGURES, numbers
from .pictures import Curve, Plot
from .reference_claims import ALL_CLAIMS
from .statistics import interval
from .verdicts import AHEAD, Claim, Figures, judge_claim

BEGIN, END = "<!-- begin: written by experiments/claims -->\n", "<!-- end -->"
HEAD = """# The claims, reproduced with the puppet

`python -m experiments.claims` writes the part between the two marks below. The rest is written by hand.

"""
HOW = ("A check holds where the whole 95 % interval of its paired difference over characters lies on the claimed side "
       "and is not smaller than SMALLEST in verdicts.py; the figure is the difference, positive as "
       "claimed. A check that something is kept cannot carry a claim alone. "
       "Each interval is of one check, not of all of them together.")
SHOWN = ("identity", "identity_slope", "letters", "sync", "lag", "dynamics", "motion_pause", "pose_near", "sharpness",
         "colour", "background")
DRIFT = ("none", "plain", AHEAD, "truth")
STITCHING = ("none", "used only, none", "neither, none", AHEAD, "used only", "neither")


def page(found: Figures, asked: Sequence[int], made_by: str, plots: Sequence[str]) -> str:
    """The marked part. `plots`: paths of the pictures from the page."""
    claims = [claim for claim in ALL_CLAIMS if claim.number in asked]
    results = {claim.number: judge_claim(claim, found) for claim in claims}
    lines = [made_by, "", "| | claim | the paper | reproduced |", "|---|---|---|---|"]
    lines += [f"| {claim.number} | {claim.title} | {claim.paper} | {verdict(results[claim.number][0])} |"
              for claim in claims]
    lines += ["", HOW]
    for claim in claims:
        lines += ["", *section(claim, found, results[claim.number])]
    lines += ["", *(f"![{Path(plot).stem}]({plot})" for plot in plots), "", "## All figures", "", *table(found), ""]
    return "\n".join(lines)


def verdict(word: str) -> str:
    return word if word == "yes" else f"**{word}**"


def section(claim: Claim, found: Figures, result: tuple) -> list[str]:
    word, findings = result
    lines = [f"## {claim.number}. {claim.title}: {word}", ""]
    lines += [f"- {finding}" for finding in findings]
    missing = [name for name in claim.conditions if name not in found]
    lines += [f"- no take of: {CONDITIONS[name].label}" for name in missing]
    return lines + ([f"- Not as in the paper: {claim.differs}."] if claim.differs else [])


def table(found: Figures) -> list[str]:
    lines = ["| condition | " + " | ".join(FIGURES[name] for name in SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name, figures in found.items():
        cells = [str(interval(figures[figure])) if np.isfinite(figures[figure]).any() else "" for figure in SHOWN]
        lines.append(f"| {CONDITIONS[name].label} | " + " | ".join(cells) + " |")
    return lines


def write_part(path: Path, part: str) -> None:
    """Put `part` between the marks of the page, or begin a page with it."""
    text = path.read_text(encoding="utf-8") if path.is_file() else HEAD + BEGIN + END + "\n"
    before, _, rest = text.partition(BEGIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{BEGIN}{part}{END}{rest.partition(END)[2]}", encoding="utf-8")


def course(seen: Mapping[str, Tensor], name: str, label: str) -> Curve:
    """A figure over the take, in seconds, with its interval over characters."""
    values = seen[name].double().numpy()
    values = values if values.ndim == 2 else values.mean(2)
    found = [interval(column, 1000) for column in values.T]
    return Curve(label, [numbers(int(chunk)).mean() / FPS for chunk in seen["chunks"]], *zip(*found, strict=True))


def plots_of(seen: Mapping[str, Mapping[str, Tensor]], found: Figures) -> dict[str, list[Plot]]:
    """By the name of the picture, as far as there are takes for it."""
    def courses(title: str, unit: str, figure: str, names: Sequence[str]) -> Plot:
        return Plot(title, unit, "seconds", tuple(course(seen[name], figure, CONDITIONS[name].label)
                                                  for name in names if name in seen))

    pictures = {"claims_drift": [
        courses("Identity over time", "error, standard deviations", "error", DRIFT),
        courses("Colour over time", "CIEDE2000 from the truth", "colour", DRIFT)],
        "claims_stitching": [
            courses("Hand-over, without a reference", "identity error", "error", STITCHING[:3]),
            courses("Hand-over, lookahead", "identity error", "error", STITCHING[3:])],
        "claims_story": [courses("Expression", "keyframes at a quarter, half and three quarters", "expression",
                                 ("story", AHEAD))]}
    if all(f"ahead {frames}" in found for frames in DISTANCES):
        pictures["claims_distance"] = [plot_sweep(found, name) for name in ("dynamics", "identity", "sync", "letters")]
    return {name: kept for name, plots in pictures.items()
            if (kept := [plot for plot in plots if len(plot.curves) > (name != "claims_distance")])}


def plot_sweep(found: Figures, figure: str) -> Plot:
    values = [interval(found[f"ahead {frames}"][figure]) for frames in DISTANCES]
    return Plot(FIGURES[figure].capitalize(), "by the lookahead", "frames ahead", (
        Curve("lookahead", DISTANCES, *zip(*values, strict=True)),))
