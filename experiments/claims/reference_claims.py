"""TAVR's claims about a video of the person: written down, with every threshold, before the first take was made.

The puppet's LoRAs `same_scene`, `both_scenes`, `cross_only` and `preferred` (training/puppet/cross_scene.py) make their
takes; where they are not there, a claim is not measured.
"""
from .conditions import VIDEO_FRAMES
from .verdicts import CLAIMS, ONE_EACH, SAME_SYNC, Check, Claim, Trend

VIDEOS = tuple(f"video {frames}" for frames in VIDEO_FRAMES)
ONE = VIDEOS[1]
SAME_FACE, SAME_ROOM = 0.02, 0.01       # what is still as good: standard deviations, RMS of the picture
DROPPED = 0.15                          # of the tokens, at least; the paper has 0.169
REFERENCE_CLAIMS = (
    Claim(17, "More frames of the person keep the person better, and the lips in step",
          "TAVR, fig. 3: 12 to 48 frames, identity rises with each step, lip sync stays",
          (Trend("identity error falls with the logarithm of the frames", "identity", -1, conditions=VIDEOS,
                 over=VIDEO_FRAMES),
           Check(f"lip sync of the most frames as of the fewest (within {SAME_SYNC})", "sync", (VIDEOS[0],),
                 (VIDEOS[-1],), margin=SAME_SYNC, keeps=True)), ("truth",),
          "The training has 9 to 21 frames, the paper's 12 to 20"),
    Claim(18, "Tokens of the face are enough",
          "TAVR, Tab. 4: 16.9 % fewer tokens and 19.3 % fewer FLOPs at 20 frames, identity kept",
          (Check(f"the selection drops {DROPPED:.0%} of the tokens or more", "tokens", (ONE,), ("video whole",),
                 1 - DROPPED),
           Check("pairs of the self-attention are fewer, counted", "attention", (ONE,), ("video whole",)),
           Check(f"identity error as with all tokens (within {SAME_FACE})", "identity", (ONE,), ("video whole",),
                 margin=SAME_FACE, keeps=True)), (),
          "A batch of characters keeps the tokens of all their heads"),
    Claim(19, "What is said in the reference helps",
          "TAVR, Tab. 3: with the reference's own audio identity and lip sync are better",
          (Check("identity error less with the video's sound", "identity", ("video sound",), (ONE,)),
           Check("lip sync better with the video's sound", "sync", (ONE,), ("video sound",))), (),
          "It was not trained here: in training the reference has no sound"),
    Claim(20, "Trained on the same scene, then on another, then by preferences",
          "TAVR, Tab. 2: the same scene alone copies the background; another scene cures that and costs identity; "
          "preferences bring identity back",
          (Check("both stages: background error less than of the same scene alone", "background", (ONE,),
                 ("same scene",)),
           Check("both stages: background error less than of another scene alone", "background", (ONE,),
                 ("cross only",)),
           Check("both stages: identity error more than of the same scene alone", "identity", ("same scene",), (ONE,)),
           Check("preferences: identity error less than without them", "identity", ("preferred",), (ONE,)),
           Check(f"preferences: background error as without them (within {SAME_ROOM})", "background", ("preferred",),
                 (ONE,), margin=SAME_ROOM, keeps=True)), ("truth",), ONE_EACH[:1].upper() + ONE_EACH[1:]),
)
ALL_CLAIMS = (*CLAIMS, *REFERENCE_CLAIMS)
