"""What a node says in English, what `locales/zh` and `web/docs/<NodeId>/zh.md` say for it, and which English line each
translation was made from. `python tests/rig/translations.py` lists what is to be translated (again); once that is done,
`--translated` records it in tests/golden/translated.json: of both, so that no Chinese passes that stayed while its
English changed."""
import argparse
import asyncio
import hashlib
import json
import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from lib import environment, pack  # noqa: E402

PACK = Path(__file__).resolve().parents[2]
WORDS = PACK / "locales" / "zh" / "nodeDefs.json"
RECORD = PACK / "tests" / "golden" / "translated.json"
DOCS = PACK / "web" / "docs"
SYNTAX = re.compile(r"[{}@|]")          # of the front end's messages: such a text is not shown as it stands
CHINESE = re.compile(r"[\u4e00-\u9fff]")
ADVICE = """Each English line above is new or changed. For each: write its Chinese into locales/zh/nodeDefs.json (at the
same path; of .page into web/docs/<NodeId>/zh.md), take out what no node has, then run

    python tests/rig/translations.py --translated

which records in tests/golden/translated.json the English that the Chinese was made from; commit all of them. Where
the English changed and the Chinese is right as it is: --still-right."""


def english_of(node) -> dict[str, str]:
    """Every text of one node class by its path: "description", "inputs.width.tooltip", "outputs.0.name", "page"."""
    info = node.GET_SCHEMA().get_v1_info(node)
    texts = {"display_name": info.display_name, "description": info.description, "page": read_page(node.__name__)}
    for group in ("required", "optional"):
        for name, spec in info.input.get(group, {}).items():
            said = spec[1] if len(spec) > 1 else {}
            texts[f"inputs.{name}.name"] = said.get("display_name") or name
            texts[f"inputs.{name}.tooltip"] = said.get("tooltip") or ""
    for place, (name, tooltip) in enumerate(zip(info.output_name, info.output_tooltips, strict=True)):
        texts |= {f"outputs.{place}.name": name, f"outputs.{place}.tooltip": tooltip or ""}
    return texts


def read_page(node_id: str, language: str = "") -> str:
    path = DOCS / node_id / f"{language}.md" if language else DOCS / f"{node_id}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def chinese() -> dict[str, dict[str, str]]:
    """{node id: {path: text}} of the translations, in the form of `english_of`."""
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    pages = {path.parent.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*/zh.md")}
    return {node: flat(words.get(node, {})) | ({"page": pages[node]} if node in pages else {})
            for node in sorted(words.keys() | pages.keys())}


def flat(tree: dict, before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def digests(english: dict, translated: dict, recorded: dict) -> dict[str, dict[str, str]]:
    """{node id: {path: English and Chinese}}; what was recorded of the same English stays as it is."""
    return {node: {path: recorded[node][path] if known(recorded, node, path, text)
                   else digest(text) + digest(translated.get(node, {}).get(path, ""))
                   for path, text in sorted(texts.items())} for node, texts in sorted(english.items())}


def known(recorded: dict, node: str, path: str, text: str) -> bool:
    """Whether the record is of this English."""
    return recorded.get(node, {}).get(path, "").startswith(digest(text))


def left_as_they_were(english: dict, translated: dict, recorded: dict) -> list[str]:
    """Lines whose English changed and whose Chinese did not."""
    return [f"changed, and its Chinese not  {node}.{path}" for node, texts in english.items()
            for path, text in texts.items() if not known(recorded, node, path, text)
            and recorded.get(node, {}).get(path, "")[8:] == digest(translated.get(node, {}).get(path, ""))]


def to_translate(english: dict, translated: dict, recorded: dict) -> list[str]:
    """A line for each text without a translation, with one of another English text, or of no node."""
    lines = []
    for node, texts in english.items():
        for path, text in texts.items():
            if not translated.get(node, {}).get(path):
                lines.append(f"new      {node}.{path}: {shown(path, text)}")
            elif not known(recorded, node, path, text):
                lines.append(f"changed  {node}.{path}: {shown(path, text)}")
    return lines + [f"no node  {node}.{path}: take it out" for node, texts in translated.items()
                    for path in texts if path not in english.get(node, {})]


def shown(path: str, text: str) -> str:
    return "the help page" if path == "page" else text


def shape(page: str) -> dict[str, object]:
    """What a page and its translation have in common: headings, rows of tables, pictures, code."""
    return {"headings": len(re.findall(r"^#+ ", page, re.M)), "rows": len(re.findall(r"^\|", page, re.M)),
            "pictures": re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page), "formulas": re.findall(r"^    \S.*", page, re.M),
            "blocks": page.count("```")}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--translated", action="store_true", help="record that all of it is of today's English")
    arguments.add_argument("--still-right", action="store_true", help="the same, where the Chinese needed no change")
    chosen = arguments.parse_args()
    environment.bring_comfyui(environment.newest_comfyui())
    import utils.extra_config  # noqa: F401  as main.py does
    pack.load_pack()
    import lodestar.nodes
    english = {node.__name__: english_of(node) for node in asyncio.run(lodestar.nodes.Lodestar().get_node_list())}
    recorded, translated = json.loads(RECORD.read_text(encoding="utf-8")), chinese()
    wanted = [] if chosen.still_right or not chosen.translated else left_as_they_were(english, translated, recorded)
    if chosen.translated or chosen.still_right:
        recorded = digests(english, translated, recorded)
    wanted += to_translate(english, translated, recorded)
    if not wanted and (chosen.translated or chosen.still_right):
        RECORD.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*wanted, ADVICE] if wanted else ["all is translated"]))
    return 1 if wanted else 0


if __name__ == "__main__":
    sys.exit(main())
