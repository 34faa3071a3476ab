"""The story script: what it reads, where its lines take hold, and which line it names when it cannot."""
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lodestar.pipelines.take.story import clock, lay_on_chunks, parse_story, prompts_for_chunks

pytestmark = pytest.mark.once

STARTS = [Fraction(0), Fraction(4), Fraction(8), Fraction(12)]


def read(text):
    return [(float(entry.seconds), entry.prompt) for entry in parse_story(text).prompts]


def snapped(text, starts=STARTS, end=16):
    return prompts_for_chunks(parse_story(text).prompts, starts, Fraction(end))


def test_times_comments_and_continuations():
    assert read("# the story\n0:00 she smiles\n\n0:12.5 she laughs,\n    and leans back\n\tslowly\n"
                "  # not a comment\n1:02:03 she waves\r\n") == [
        (0, "she smiles"), (12.5, "she laughs, and leans back slowly # not a comment"), (3723, "she waves")]


def test_an_indented_script_is_no_continuation():
    assert read("  0:00 a\n  0:05 b\n") == [(0, "a"), (5, "b")]


def test_prompt_below_its_time():
    assert read("0:00\n  a\n75:30  b") == [(0, "a"), (4530, "b")]


@pytest.mark.parametrize("text", ["she smiles", "\ufeffshe smiles", "# c\n\nshe\n  smiles", "0:00 she smiles"])
def test_a_single_prompt_needs_no_time(text):
    assert read(text) == [(0, "she smiles")]


def test_a_prompt_may_begin_with_a_number():
    assert read("2 women talk") == [(0, "2 women talk")]


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment"])
def test_empty(text):
    assert read(text) == []
    assert snapped(text) == (["", "", "", ""], [])


@pytest.mark.parametrize("text, words", [
    ("0:00 a\n0:12 b\n0:05 c", r"line 3 \('0:05 c'\): its time is not after that of line 2 \(0:12\)"),
    ("0:00 a\n\n0:00 b", r"line 3 \('0:00 b'\): its time is not after"),
    ("0:00 a\nsoon b", r"line 2 \('soon b'\): it must begin with a time"),
    ("a\n0:10 b", r"line 1 \('a'\): it must begin with a time"),
    ("0:75 a", r"line 1 \('0:75 a'\): seconds must be below 60"),
    ("1:75:00 a", r"line 1 .*minutes after hours"),
    ("0;12 a", "line 1 .*must begin with a time"),
    ("12.5 a", "line 1 .*must begin with a time"),
    ("0:1x a", "line 1 .*must begin with a time"),
    ("0:00 a\n-0:05 b", "line 2 .*must begin with a time"),
    ("0:00 a\n0:05", r"line 2 \('0:05'\): it has a time but no prompt"),
    ("0:05she", "line 1 .*must begin with a time"),
])
def test_errors_name_the_line(text, words):
    with pytest.raises(ValueError, match="^script, " + words):
        parse_story(text)


def test_lines_take_hold_at_the_nearest_chunk():
    prompts, notes = snapped("0:00 a\n0:05.9 b\n0:06 is too late for b? no: c\n0:11 d")
    assert prompts == ["a", "b", "is too late for b? no: c", "d"]
    assert notes == ["0:05.900 starts with chunk 2 at 0:04", "0:06 starts with chunk 3 at 0:08",
                     "0:11 starts with chunk 4 at 0:12"]


def test_the_later_of_two_lines_at_one_chunk_is_kept():
    prompts, notes = snapped("0:00 a\n0:03 b\n0:05 c")
    assert prompts == ["a", "c", "c", "c"]
    assert notes == ["0:03 is dropped: 0:05 starts with the same chunk 2", "0:05 starts with chunk 2 at 0:04"]


def test_a_line_after_the_end_is_said_not_to_be_used():
    prompts, notes = snapped("0:00 a\n0:15 b\n0:16 c")
    assert prompts == ["a", "a", "a", "b"]
    assert notes == ["0:16 is not used: the take ends at 0:16", "0:15 starts with chunk 4 at 0:12"]


def test_before_the_first_line_the_graph_speaks():
    prompts, notes = snapped("0:07 b")
    assert prompts == ["", "", "b", "b"]
    assert notes[-1] == "the prompt of the graph is used until chunk 3"


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(0, 3000))
def test_a_line_takes_hold_where_a_search_of_all_chunks_would_put_it(steps, at):
    starts, seconds = [Fraction(sum(steps[:count]), 4) for count in range(len(steps) + 1)], Fraction(at, 8)
    prompts, _ = snapped(f"{clock(seconds)} x", starts, end=10 ** 6)
    nearest = min(range(len(starts)), key=lambda chunk: (abs(starts[chunk] - seconds), -chunk))
    assert prompts == [""] * nearest + ["x"] * (len(starts) - nearest)


@given(st.integers(0, 10 ** 8).map(lambda ms: Fraction(ms, 1000)))
def test_the_clock_is_the_scripts_own_notation(seconds):
    assert parse_story(f"{clock(seconds)} x").prompts[0].seconds == seconds


EVENTS = """0:00 she smiles
0:04 [anchor 0.5 s]
0:06 she laughs
0:06 [keyframe faces/big smile.png]
0:09 [anchor]
0:11 [again 2]
0:50 [keyframe late.png]"""


def test_events_stand_beside_prompts():
    story = parse_story(EVENTS)
    assert [entry.prompt for entry in story.prompts] == ["she smiles", "she laughs"]
    assert [(float(entry.seconds), entry.picture) for entry in story.keyframes] == [
        (6, "faces/big smile.png"), (50, "late.png")]
    assert [(float(entry.seconds), entry.distance) for entry in story.anchors] == [(4, Fraction(1, 2)), (9, None)]
    assert [(float(entry.seconds), entry.number) for entry in story.agains] == [(11, 2)]


def test_events_take_hold_at_their_chunks():
    laid = lay_on_chunks(parse_story(EVENTS), STARTS, Fraction(16))
    assert laid.distances == (None, Fraction(1, 2), None, None) and laid.agains == (0, 0, 2, 0)
    assert laid.prompts == ("she smiles", "she smiles", "she laughs", "she laughs")
    assert laid.notes == ("0:06 starts with chunk 3 at 0:08", "0:04 anchor: from chunk 2 at 0:04",
                          "0:09 anchor: from chunk 3 at 0:08", "0:11 again: chunk 3 has other noise",
                          "0:50 keyframe is not used: the take ends at 0:16")


@pytest.mark.parametrize("text", ["0:00 [close-up] she smiles", "0:00 [close-up]", "0:00 she [keyframe a.png] smiles"])
def test_a_prompt_may_have_brackets(text):
    assert read(text) == [(0, text.removeprefix("0:00 "))]


@pytest.mark.parametrize("text, words", [
    ("0:00 [keyframe]", "line 1 .*names no picture"),
    ("0:00 a\n0:02 [keyframe a.png] she smiles", "line 2 .*a line of its own"),
    ("0:02 [keyframe a.png]\n   she smiles", "line 1 .*a line of its own"),
    ("0:02 [keyfram a.png]", r"line 1 .*write \[keyframe\]"),
    ("0:02 [anchor far]", "line 1 .*in seconds"),
    ("0:02 [again 0]", r"line 1 .*write \[again\]"),
    ("0:02 [again]\n0:02 [again 2]", "line 2 .*is not after that of line 1"),
    ("0:04 a\n0:02 [again]", "line 2 .*is not after that of line 1"),
])
def test_errors_of_events_name_the_line(text, words):
    with pytest.raises(ValueError, match="^script, " + words):
        parse_story(text)


@pytest.mark.parametrize("text, parts, at_end", [
    ("wave.mp4", {"pose": "wave.mp4"}, "refuse"), ("a b/wave.mp4 , loop", {"pose": "a b/wave.mp4"}, "loop"),
    ("p.mp4, face f g.mp4, back and forth", {"pose": "p.mp4", "face": "f g.mp4"}, "back and forth"),
    ("p.mp4, background b.mp4, mask m.mp4", {"pose": "p.mp4", "background": "b.mp4", "mask": "m.mp4"}, "refuse")])
def test_a_driving_line_names_its_videos(text, parts, at_end):
    driving, = parse_story(f"0:00 she waves\n0:41.5 [driving {text}]").drivings
    assert (driving.seconds, dict(driving.parts), driving.at_end) == (41.5, parts, at_end)
    assert driving.where == f"script, line 2 (0:41.500 driving {parts['pose']})"
    laid = lay_on_chunks(parse_story(f"0:41.5 [driving {text}]"), STARTS, Fraction(16))
    assert laid.notes == ("0:41.500 driving is not used: the take ends at 0:16",)


@pytest.mark.parametrize("text, words", [
    ("[driving]", "names no video"), ("[driving , loop]", "names no video"), ("[drivng a.mp4]", r"write \[driving\]"),
    ("[driving a.mp4, faces f.mp4]", "'faces f.mp4' is no part"), ("[driving a.mp4, face]", "'face' is no part"),
    ("[driving a.mp4, face f.mp4, face g.mp4]", "'face g.mp4' is no part")])
def test_errors_of_driving_lines_name_the_line(text, words):
    with pytest.raises(ValueError, match=f"line 1 .*{words}"):
        parse_story(f"0:00 {text}")
