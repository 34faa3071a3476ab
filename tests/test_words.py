"""The field's words, so that a newcomer needs no glossary: what stands on the left of WORDS stands nowhere in the pack
but in the CHANGELOG, nor in part of an identifier. A word is listed from when it is gone.
"""
import ast
import functools
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
ENDINGS = {".py", ".md", ".js", ".toml", ".yml"}
OUTSIDE = {"CHANGELOG.md", "out", "golden", Path(__file__).name}
WORDS = {       # pattern, spaces being any of " ", "_", "-" or nothing: what is said instead
    "kept keys": "KV cache",
    "kept in VRAM": "KV cache, offload",
    "clean cache": "conditioning cache",
    "silent (condition|branch)": "unconditional audio",
    "who sees whom": "attention bias, visibility mask",
    "(?-i:Moment)": "ChunkPosition",
    "lessons?": "batch",
    "readings": "predictions",
    "the eye": "face probe",
    "puppet stem|(the|same) stem": "base checkpoint",
    "ships?|shipped": "exported, the pack's own",
    "afresh": "re-encode; from the start",
    "anew": "recomputed, made again; from the start",
    "moving pictures": "video reader",
    "contracts|contract of": "fingerprint, cache key",
    "clean frames of x": "conditioning frames, `num_cond_frames`",
    "(?-i:Look|Reading|Looker)": "Detection, Prediction, FaceProbe",
    "silent rows|silent audio": "unconditional audio",
    "\\.hear": "audio_for(chunk)",
    "encode voices": "audio streams",
    "million numbers": "parameters",
    "hears?|heard": "audio features, audio conditioning, `audio_for(chunk)`",
    "rope rows": "RoPE frequencies",
    "feature rows": "feature frames",
    "people masks": "speaker masks",
    "kept chunks": "finished chunks, reusable chunks",
    "voices": "speakers, audio streams",
    "(?<![.])(?-i:stem)": "base checkpoint",
    "(?-i:canvas)": "concat latent",
    "told|spoken": "text cross-attention, audio cross-attention",
    "looker": "face probe",
    "contract": "fingerprint, cache key",
    r"paper 00\d": "its authors and its name",
}

EXCEPTIONS = {      # words: {where a path begins: why they stand there}
    "voices": {"training/": "of espeak-ng, its own word"},
    "(?-i:canvas)": {"scripts/make_workflows.py": "of ComfyUI's frontend", "tests/web/": "of ComfyUI's frontend",
                     "web/": "of ComfyUI's frontend"},
    "contract": {"pipelines/take/manifest.py": "the name in takes of format 2, which are still read",
                 "tests/": "takes of format 2"},
}
SAME_AS_THE_VERB = {"cast", "cut", "feed", "put", "read", "run", "seed", "set", "speed", "split", "spread"}
IRREGULAR = set("begun bent bound broken brought built chosen done drawn driven dropt fed felt forgotten found frozen "
                "given gone got heard held hidden kept known laid led left let lost made meant met paid said seen sent "
                "shown spoken spent stood taken thought told thrown torn turned woken won worn woven written".split())


def pattern_of(words: str) -> re.Pattern:
    """Between words, or inside an identifier: neither a letter before nor one behind."""
    return re.compile(rf"(?<![a-z])(?:{words.replace(' ', '[ _-]?')})(?![a-z])", re.IGNORECASE)


@functools.cache
def texts(root: Path) -> list[tuple[Path, str]]:
    """(path from the root, text) of every file that people read; hidden folders but .github are somebody else's."""
    paths = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.suffix in ENDINGS]
    return [(path, (root / path).read_text(encoding="utf-8")) for path in paths
            if not OUTSIDE & set(path.parts) and (path.parts[0] == ".github" or not path.parts[0].startswith("."))]


def places(words: str, root: Path) -> list[str]:
    pattern = pattern_of(words)
    return [f"{path.as_posix()}:{text.count(chr(10), 0, found.start()) + 1}: {found[0]!r}"
            for path, text in texts(root) if not path.as_posix().startswith(tuple(EXCEPTIONS.get(words, {})))
            for found in pattern.finditer(text)]


def is_participle(name: str) -> bool:
    word = name.strip("_")
    return word not in SAME_AS_THE_VERB and (word in IRREGULAR or "_" not in word and word.endswith("ed"))


def participles(root: Path) -> list[tuple[str, str]]:
    """(path, name) of the functions outside the tests that are a bare participle; a property is a value."""
    found = []
    for path, text in texts(root):
        if path.suffix == ".py" and path.parts[0] != "tests":
            functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
            found += [(path.as_posix(), node.name) for node in functions if is_participle(node.name)
                      and not any("property" in ast.unparse(one) for one in node.decorator_list)]
    return found


@pytest.mark.parametrize("words", WORDS)
def test_the_field_s_words_are_used(words):
    if found := places(words, ROOT):
        pytest.fail("\n".join([f"say {WORDS[words]}:", *found]), pytrace=False)


def test_no_function_is_a_bare_participle():
    assert participles(ROOT) == []


def test_participles_are_seen(tmp_path):
    (tmp_path / "a.py").write_text(
        "class A:\n    @property\n    def held(self): pass\n    def told(self): pass\n    def _parsed(self): pass\n\n\n"
        "def read(): pass\ndef scaled_axes(): pass\ndef watch():\n    def watched(): pass\n", encoding="utf-8")
    assert [name for _, name in participles(tmp_path)] == ["told", "_parsed", "watched"]


@pytest.mark.parametrize("words", EXCEPTIONS)
def test_every_exception_is_needed(words):
    pattern = pattern_of(words)
    for begins in EXCEPTIONS[words]:
        assert any(path.as_posix().startswith(begins) and pattern.search(text) for path, text in texts(ROOT)), begins


@pytest.mark.parametrize(("words", "text", "is_found"), [
    ("kept keys", "with kept keys of", True), ("kept keys", "def test_kept_keys_are():", True),
    ("kept keys", "KeptKeys(1)", True), ("ships?|shipped", "relationship", False), ("lessons?", "lessen it", False),
    ("(?-i:Moment)", "a moment later", False), ("(?-i:Moment)", "Moment(0)", True),
    ("the eye", "of the eyes", False), ("afresh", "ENCODED_AFRESH", True)])
def test_a_word_is_found_alone_and_inside_a_name(words, text, is_found, tmp_path):
    (tmp_path / "a.py").write_text(f'"""A module."""\n{text}\n', encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(text, encoding="utf-8")
    assert [place.partition(": ")[0] for place in places(words, tmp_path)] == ["a.py:2"] * is_found
