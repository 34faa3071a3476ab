"""The eight claims: what the papers say, what would have to be seen here, and whether it was.

Every threshold stands here before the first take is made. Where a claim does not reproduce, the page says so.
"""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .conditions import DEFAULT, DISTANCES
from .statistics import Interval, interval, slopes

Figures = Mapping[str, Mapping[str, np.ndarray]]     # of conditions, of figures: (characters,)
AHEAD = f"ahead {DEFAULT}"
SAME_IDENTITY, SAME_SYNC = 0.05, 0.05   # what is still as good: standard deviations, correlation
ARRIVED = 0.5                           # of the way to a keyframe's expression
SMALLEST = {"identity": 0.01, "identity_slope": 0.02, "identity_end": 0.01, "sync": 0.01, "dynamics": 0.005,
            "pose_near": 0.01, "arrival": 0.05, "background": 0.01,
            "tokens": 1.0, "attention": 1.0}     # differences that are called one, of distances by their doubling
ONE_EACH = "of each kind one network was trained: the intervals are over characters, not over trainings"
NEAR_DISTANCES = tuple(frames for frames in DISTANCES if frames <= DEFAULT)    # Seo et al., fig. 6: best up to 12


@dataclass(frozen=True)
class Check:
    """`less` has less of `figure` than `factor` times `more` plus `margin`, each the mean over several conditions, or 0
    where there is none. `keeps`: something is no worse than allowed, which is true of what does nothing, too, so that
    it can spoil a claim but carries none. `given`: without which it means nothing."""
    says: str
    figure: str
    less: tuple[str, ...]
    more: tuple[str, ...]
    factor: float = 1.0
    margin: float = 0.0
    keeps: bool = False
    given: "Check | None" = None

    @property
    def conditions(self) -> tuple[str, ...]:
        return (*self.less, *self.more)

    def advantage(self, found: Figures) -> np.ndarray:
        """(characters,): positive is as claimed."""
        less, more = (np.mean([found[name][self.figure] for name in names], 0) if names else np.zeros(1)
                      for names in (self.less, self.more))
        return self.factor * more + self.margin - less


@dataclass(frozen=True)
class Trend:
    """`figure` rises with the lookahead (`sign` 1) or falls (-1), over the logarithm of the distance; or over that of
    what else `over` names of the conditions."""
    says: str
    figure: str
    sign: int
    keeps: bool = False
    given: Check | None = None
    conditions: tuple[str, ...] = tuple(f"ahead {frames}" for frames in DISTANCES)
    over: tuple[int, ...] = DISTANCES

    def advantage(self, found: Figures) -> np.ndarray:
        values = np.stack([found[name][self.figure] for name in self.conditions], 1)
        return self.sign * slopes(np.log2(self.over), values)


@dataclass(frozen=True)
class Claim:
    number: int
    title: str
    paper: str
    checks: tuple[Check | Trend, ...]
    shown: tuple[str, ...] = ()     # conditions that stand beside, judged by nobody
    differs: str = ""               # what is not as in the paper, whatever comes out

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*(name for check in self.checks for name in check.conditions), *self.shown)))


@dataclass(frozen=True)
class Finding:
    check: Check | Trend
    advantage: Interval
    allowed: bool = True    # what the check needs is given

    @property
    def holds(self) -> bool | None:
        """None: the interval does not say, or the difference is too small to be called one."""
        if not self.allowed or not self.check.keeps and abs(self.advantage.value) < SMALLEST[self.check.figure]:
            return None
        if self.advantage.low > 0:
            return True
        return False if self.advantage.high < 0 else None

    def __str__(self) -> str:
        word = {True: "**yes**", False: "**the opposite**", None: "not shown"}[self.holds]
        return f"{self.check.says}: {word}, {self.advantage}"


def finding(check: Check | Trend, found: Figures) -> Finding:
    allowed = check.given is None or finding(check.given, found).holds is True
    return Finding(check, interval(check.advantage(found)), allowed)


def judge_claim(claim: Claim, found: Figures) -> tuple[str, tuple[Finding, ...]]:
    """"yes" where all checks hold, "partly" where one that carries does, "no" where none does; "not measured" where a
    condition that is judged has no take."""
    if any(name not in found for check in claim.checks for name in check.conditions):
        return "not measured", ()
    findings = tuple(finding(check, found) for check in claim.checks)
    if all(one.holds is True for one in findings):
        return "yes", findings
    return "partly" if any(one.holds is True and not one.check.keeps for one in findings) else "no", findings


def better(other: str, words: str, than: str = AHEAD, name: str = "lookahead") -> tuple[Check, ...]:
    """`than` keeps the face better than `other`, and the lips too."""
    return (Check(f"{name}: identity error less than {words}", "identity", (than,), (other,)),
            Check(f"{name}: lip sync better than {words}", "sync", (other,), (than,)))


def each(says: str, figure: str, *pairs: tuple[str, str, str]) -> tuple[Check, ...]:
    """One check for (words, the condition that has less, the one that has more)."""
    return tuple(Check(f"{says} {words}", figure, (less,), (more,)) for words, less, more in pairs)


GROWS = Check("identity error grows without a reference", "identity_slope", (), ("none",))
CLAIMS = (
    Claim(1, "Without an anchor the face drifts; lookahead with the take's own picture holds it",
          "Seo et al. 2025, Tab. 1-2: face consistency 0.61 → 0.91, 0.79 → 0.86, 0.86 → 0.93; lip sync kept or better",
          (GROWS, Check("lookahead: its drift is less than half", "identity_slope", (AHEAD,), ("none",), 0.5,
                        given=GROWS),
           Check("lookahead: identity error at the end is less", "identity_end", (AHEAD,), ("none",)),
           Check(f"lookahead: lip sync kept (within {SAME_SYNC}) or better", "sync", ("none",), (AHEAD,),
                 margin=SAME_SYNC, keeps=True)), ("plain", "truth"),
          "The paper's baselines have a reference of another kind, here there is none; LongCat's own is in the table"),
    Claim(2, "Distance: farther ahead moves more and keeps the face less; lips are best near",
          f"Seo et al. 2025, fig. 6, {DISTANCES[0]} to {DISTANCES[-1]} frames: dynamics rise, consistency falls, sync "
          f"is best at about {DEFAULT}",
          (Trend("range of poses rises with the distance", "dynamics", 1),
           Trend("identity error rises with the distance", "identity", 1),
           Check(f"lip sync up to {DEFAULT} frames is better than beyond", "sync",
                 tuple(f"ahead {frames}" for frames in DISTANCES if frames not in NEAR_DISTANCES),
                 tuple(f"ahead {frames}" for frames in NEAR_DISTANCES))), ("none", "truth")),
    Claim(3, "Lookahead against past time, Sonic's position shift and a keyframe at the chunk's end",
          "Seo et al. 2025, Tab. 4: sync-C 6.55 against 6.36, 6.44, 6.53; face consistency 0.894 against 0.875, 0.890, "
          "0.869",
          (*better("past", "past time"), *better("sonic", "Sonic's shift"), *better("end", "the chunk's end")), (),
          "No times before the chunk were trained; the keyframe at the end is the take's own picture, not one made "
          "for that time; Sonic's rolling windows, as in the paper, were not trained"),
    Claim(4, "Anchors trained at any distance; an anchor that stands at a time",
          "Seo et al. 2025, Tab. 5: flexible against fixed: sync-C 6.55, 6.45, face 0.894, 0.886; without a time: "
          "2.78, 0.725",
          (*better("fixed", "with a fixed anchor", name="flexible"),
           *better("start", "without a time embedding", name="a time ahead")), (),
          "No time embedding is time 0 in the one network, where the paper trains another; learned embeddings are left "
          f"out; {ONE_EACH}"),
    Claim(5, "Reference at prefix, middle, suffix; skip attention",
          "LongCat-Video-Avatar, fig. 12: prefix and suffix lose detail, the middle copies the reference's pose, "
          "skip attention cures it",
          (*each("the middle has less identity error than", "identity",
                 ("the prefix", "middle", "start"), ("the suffix", "middle", "end")),
           *each("mid-chunk, the pose is nearer to the reference's with it in the middle than at", "pose_near",
                 ("the prefix", "middle", "start"), ("the suffix", "middle", "end")),
           Check("skip attention: mid-chunk poses are farther from it", "pose_near", ("middle",), ("skip",)),
           Check(f"skip attention: identity error the same (within {SAME_IDENTITY})", "identity", ("skip",),
                 ("middle",), margin=SAME_IDENTITY, keeps=True)), (AHEAD, "truth")),
    Claim(6, "Stitched latents, trained and used, against a hand-over that is only used, or re-encoded",
          "LongCat-Video-Avatar, fig. 14: used but not trained is worst, neither is second, trained and used is best",
          (*each("without a reference, drift is less", "identity_slope",
                 ("trained and used than used only", "none", "used only, none"),
                 ("trained and used than neither", "none", "neither, none"),
                 ("neither than used only", "neither, none", "used only, none")),
           *each("with lookahead, identity error is less", "identity",
                 ("trained and used than used only", AHEAD, "used only"),
                 ("trained and used than neither", AHEAD, "neither"),
                 ("neither than used only", "neither", "used only"))), ("truth",), ONE_EACH[:1].upper() + ONE_EACH[1:]),
    Claim(7, "Silence is a sound: a network trained with zeros for it stands still",
          "LongCat-Video-Avatar, fig. 13: nearly static in silence without disentangled guidance, natural with it",
          (*each("encoded silence moves more than zeros", "dynamics",
                 ("in training, unguided", "null, silence", "encoded, silence"),
                 ("in training, guided", "null, silence guided", "encoded, silence guided")),
           Check("encoded silence: at least 0.8 of the true range of poses", "dynamics", ("truth, silent",),
                 ("encoded, silence",), 1.25, keeps=True),
           Check("encoded silence: so, too, guided", "dynamics", ("truth, silent",), ("encoded, silence guided",),
                 1.25, keeps=True)), ("encoded, null", "null, null"),
          f"In this world motion does not depend on the speech; {ONE_EACH}"),
    Claim(8, "Narrative keyframes: the expression arrives in time, the face stays",
          "Seo et al. 2025, fig. 7: converges to the keyframes' states, identity and lip sync kept",
          (Check(f"at the keyframes' times at least {ARRIVED} of the way to the expression", "arrival", (), ("story",),
                 margin=-ARRIVED),
           Check("nearer to it than a take without keyframes", "arrival", (AHEAD,), ("story",)),
           Check(f"identity error as without (within {SAME_IDENTITY})", "identity", ("story",), (AHEAD,),
                 margin=SAME_IDENTITY, keeps=True),
           Check(f"lip sync as without (within {SAME_SYNC})", "sync", (AHEAD,), ("story",), margin=SAME_SYNC,
                 keeps=True))),
)
QUICK = (1, 3, 6, 8)
