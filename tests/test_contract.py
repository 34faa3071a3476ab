"""What counts as the same take: values by value, the graph by what it says, files by what they are."""
from fractions import Fraction

import torch
from lodestar.pipelines.contract import ancestry, files_named_in, fingerprint, graph_contract

PROMPT = {
    "1": {"class_type": "Loader", "inputs": {"name": "model.safetensors"}},
    "2": {"class_type": "Anchor", "inputs": {"model": ["1", 0], "distance": 12.0}},
    "9": {"class_type": "Take", "inputs": {"guider": ["2", 0], "plan": ["7", 0], "prefix": "a"}},
    "7": {"class_type": "Plan", "inputs": {"script": "0:00 hello"}},
}


def test_fingerprints_tell_values_apart():
    values = [None, 1, 1.5, "1", True, Fraction(1, 3), Fraction(2, 3), [1, 2], [2, 1], {"a": 1}, {"a": 2}, {"b": 1},
              torch.zeros(2), torch.ones(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.float16), object()]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint({"a": 1, "b": [torch.ones(2)]}) == fingerprint({"b": [torch.ones(2)], "a": 1})


def test_ancestry_knows_no_node_ids():
    renamed = {"11": PROMPT["1"], "12": {**PROMPT["2"], "inputs": {"model": ["11", 0], "distance": 12.0}},
               "19": {"class_type": "Take", "inputs": {"guider": ["12", 0]}}}
    assert ancestry(PROMPT, "9", ["guider"]) == ancestry(renamed, "19", ["guider"])
    assert ancestry(PROMPT, "9", ["guider", "clip"]).keys() == {"guider"}


def test_a_changed_input_or_file_changes_the_contract_of_its_socket_alone(tmp_path):
    def locate(name):
        path = tmp_path / name
        return path if path.is_file() else None

    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = graph_contract(PROMPT, "9", ["guider", "plan"], locate)
    changed = {**PROMPT, "2": {"class_type": "Anchor", "inputs": {"model": ["1", 0], "distance": 16.0}}}
    after = graph_contract(changed, "9", ["guider", "plan"], locate)
    assert before["guider"] != after["guider"] and before["plan"] == after["plan"]
    assert list(files_named_in(ancestry(PROMPT, "9", ["guider"]), locate)) == ["model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(b"22")
    assert graph_contract(PROMPT, "9", ["guider"], locate)["guider"] != before["guider"]
