"""Our touch points against the ComfyUI that runs: its source laid under them, and its objects' signatures."""
import importlib
import inspect

import overlay
import touch_points


def test_its_source_has_all_we_touch_as_we_call_it(comfyui, comfyui_version):
    table = overlay.table_of(comfyui)
    assert table["version"] == comfyui_version and len(table["files"]) > 30
    assert overlay.problems(table, touch_points.GUARDED) == []


def test_its_functions_take_our_calls():
    calls = [(touch, found) for touch in overlay.touches() if touch.given and (found := held(touch.target))]
    assert len(calls) > 200
    assert [f"{touch.where}: {touch.target}: {why}" for touch, found in calls
            if (why := overlay.why_not(inspect.signature(found), touch))] == []


def held(target: str):
    """What stands there in this process; None where only an object made from a class has it, or no ComfyUI yet."""
    parts, found = target.split("."), None
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for name in parts[end:]:
            found = getattr(found, name, None)
        return found
    return found
