"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

Package indexes carry torchvision as a CUDA build only, whose C++ operators do not load into a CPU torch; the
import then fails with "operator torchvision::nms does not exist". transformers needs torchvision for image
processing, none of which uses those operators, so declaring their schemas is enough.

`scripts/install` copies this module into environments for CPUs, and a `.pth` file beside it that imports it at
interpreter start, because vLLM imports torchvision in processes of its own.
Nothing is imported here until torchvision itself is, and nothing is done where torch has CUDA or where the two
builds match.
"""

import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _is_cuda_build(package_folder: str) -> bool:
    """Whether the torchvision in `package_folder` was built against CUDA, by its version file."""
    version_file = Path(package_folder) / "version.py"
    match = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", version_file.read_text(encoding="utf-8"))
    return match is not None and "+cu" in match.group(1)


class _DeclareOperatorsFirst(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.submodule_search_locations:
            import torch

            if torch.version.cuda is None and _is_cuda_build(spec.submodule_search_locations[0]):
                for name, schema in _SCHEMAS.items():
                    torch.library.define(name, schema)
        return spec


sys.meta_path.insert(0, _DeclareOperatorsFirst())
