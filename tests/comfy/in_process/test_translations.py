"""Every node, input, tooltip and help page is there in English and Chinese, and the Chinese is of today's English."""
import asyncio
import json
import re

import lodestar.nodes
import pytest
import translations

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def english():
    return {node.__name__: translations.english_of(node)
            for node in asyncio.run(lodestar.nodes.Lodestar().get_node_list())}


def test_every_text_is_translated_from_the_english_of_today(english):
    recorded = json.loads(translations.RECORD.read_text(encoding="utf-8"))
    wanted = translations.to_translate(english, translations.chinese(), recorded)
    assert not wanted, "\n".join(["", *wanted, translations.ADVICE])


def test_a_changed_line_a_new_one_and_one_of_no_node_are_named(english):
    chinese, node = translations.chinese(), english["LodestarLongTake"]
    recorded = translations.digests(english, chinese, {})
    changed = english | {"LodestarLongTake": node | {"inputs.clip.tooltip": "Another.", "inputs.new.name": "new"}}
    assert translations.to_translate(changed, chinese | {"Gone": {"page": "# 无"}}, recorded) == [
        "changed  LodestarLongTake.inputs.clip.tooltip: Another.", "new      LodestarLongTake.inputs.new.name: new",
        "no node  Gone.page: take it out"]


def test_a_line_whose_chinese_stayed_while_its_english_changed_is_not_recorded(english):
    chinese, node = translations.chinese(), english["LodestarLongTake"]
    recorded = translations.digests(english, chinese, {})
    changed = english | {"LodestarLongTake": node | {"inputs.clip.tooltip": "Another."}}
    assert translations.left_as_they_were(english, chinese, recorded) == []
    assert translations.left_as_they_were(changed, chinese, recorded) == [
        "changed, and its Chinese not  LodestarLongTake.inputs.clip.tooltip"]
    updated = chinese | {"LodestarLongTake": chinese["LodestarLongTake"] | {"inputs.clip.tooltip": "另一个。"}}
    assert translations.left_as_they_were(changed, updated, recorded) == []
    assert not translations.to_translate(changed, updated, translations.digests(changed, updated, recorded))


def test_translations_are_chinese_and_shown_as_they_stand(english):
    for node, texts in translations.chinese().items():
        for path, text in texts.items():
            if path != "page":
                assert not translations.SYNTAX.search(text), f"{node}.{path}: the front end reads {{ }} @ | as its own"
            if not path.endswith("name"):
                assert translations.CHINESE.search(text), f"{node}.{path} is not Chinese"


def test_pages_have_the_tables_pictures_and_formulas_of_the_english_ones(english):
    for node, texts in english.items():
        page = translations.read_page(node, "zh")
        assert translations.shape(page) == translations.shape(texts["page"]), node


def test_pages_call_their_node_as_the_front_end_does(english):
    for node, texts in translations.chinese().items():
        title = texts["page"].splitlines()[0]
        assert re.sub(r"（.*", "", title) == "# " + texts["display_name"].partition(" (")[0], node
