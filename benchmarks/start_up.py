"""What the pack adds to the start of ComfyUI: CPU seconds until its nodes are known, from the second start on, when
Python has kept the compiled files."""
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from rows import Row, show

STARTS, GOAL = 5, 0.3
ONCE = "--once"


def measure_start() -> float:
    """In a process in which ComfyUI's own nodes are known already: CPU seconds until the pack's are."""
    import asyncio

    import in_process

    import nodes
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    assert in_process and "lodestar.nodes" not in sys.modules
    begun = time.process_time()
    import lodestar.nodes
    for node in asyncio.run(lodestar.nodes.Lodestar().get_node_list()):
        node.GET_SCHEMA()
    return time.process_time() - begun


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="lodestar-bench-") as compiled:
        variables = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        seconds = [float(subprocess.run([sys.executable, __file__, ONCE], env=variables, stdout=subprocess.PIPE,
                                        text=True, check=True).stdout.split()[-1]) for _ in range(1 + STARTS)]
    first, *later = seconds
    yield Row.at_most(f"start-up: CPU seconds until the nodes are known, least of {STARTS}", min(later), GOAL, 2,
                      f" ({first:.2f} at the first start of all)")


if __name__ == "__main__":
    if ONCE in sys.argv:
        print(measure_start())
    else:
        show(rows)
