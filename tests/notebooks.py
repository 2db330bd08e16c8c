"""Runs a notebook's code cells as a kernel does: in one namespace, in a thread that has an event loop.

python -m tests.notebooks FILE
"""

import asyncio
import json
import sys
from pathlib import Path


async def run(notebook: Path) -> None:
    """One cell after the other; the first error ends it."""
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
