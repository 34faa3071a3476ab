"""The templates in the order of ComfyUI's list, easiest first, under titles in words: their files are called so.

First what needs nothing, then what speech drives, then what follows a video, then the rest; within each what is least
to download. ComfyUI shows a template under its file's name, and sorts by nothing but that.
"""
import re

from lib.workflow_pages import PAGES

NEEDS = {       # what each workflow of workflows/api needs beside the pack, in words; in this order they are listed
    "puppet": "",
    "video_reference_puppet": "",
    "streaming_puppet": "",
    "live_puppet": "",
    "train_puppet_lora": "",
    "streaming_student": "AvatarForcing 1.3B on Wan 2.1 1.3B",
    "omniavatar": "OmniAvatar 14B on Wan 2.1 14B",
    "first_take": "Wan 2.2 S2V 14B",
    "talking_story": "Wan 2.2 S2V 14B",
    "humo": "HuMo 17B",
    "longcat_avatar_15": "LongCat-Video-Avatar 1.5",
    "longcat_two_speakers": "LongCat-Video-Avatar 1.5",
    "infinitetalk": "InfiniteTalk on Wan 2.1 I2V 14B",
    "ltx": "LTX-2.3 22B",
    "longcat_avatar_10": "LongCat-Video-Avatar 1.0",
    "minimax_h3": "MiniMax H3",
    "wan_animate": "Wan 2.2 Animate 14B",
    "everanimate": "Wan 2.2 Animate 14B with EverAnimate's LoRA",
    "cogvideox": "CogVideoX 1.5 5B I2V",
    "stitched_image_to_video": "Wan 2.1 I2V 14B",
    "longcat_video": "LongCat-Video",
    "longcat_refine": "LongCat-Video with its refinement LoRA",
    "wan22_pair": "both models of Wan 2.2 I2V A14B",
    "hunyuan_video": "HunyuanVideo I2V"}
SIZE = re.compile(r"\((?:about )?([\d.]+) GB")


def template_name(name: str) -> str:
    """The name of a template's file, without ending: "07 Talking person, Wan 2.2 S2V"."""
    return f"{list(NEEDS).index(name) + 1:02d} {PAGES[name].title}"


def gigabytes(name: str) -> float:
    """What the files in a template's note are together, as far as it says."""
    return sum(float(size) for size in SIZE.findall(PAGES[name].note.partition("**Card:**")[0]))


def needs(name: str) -> str:
    """The first line of a template's note."""
    if not NEEDS[name]:
        return "**Needs:** nothing."
    size = f" ({gigabytes(name):.0f} GB with all that goes with it)" if gigabytes(name) else ""
    return f"**Needs:** {NEEDS[name]}{size}."
