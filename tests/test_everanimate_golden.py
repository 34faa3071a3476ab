"""EverAnimate against the authors' own numbers (tests/golden/everanimate): what clips are given, restorative flow."""
from pathlib import Path

import golden
import pytest

pytestmark = pytest.mark.once
CASES = golden.cases_of(golden.Fixtures(Path(__file__).with_name("golden") / "everanimate"), golden.Host())


@pytest.mark.parametrize("name", CASES)
def test_a_golden_case(name):
    result = CASES[name]()
    assert result.passed, result.row(40)


def test_no_kind_of_case_is_missing():
    kinds = {name.split("_")[0] for name in CASES}
    assert kinds == {"grid", "order", "frame", "clips", "schedule", "infer", "pair", "spoilt", "anchor"}
