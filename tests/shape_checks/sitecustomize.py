"""Enforces the tensor shapes of annotations: beartype checks every function and dataclass of modules with jaxtyping.

Where the environment says so, it also puts gloo in NCCL's place (`tests.system.nccl_over_gloo`).

pytest loads this module as a plugin before anything that it checks. Interpreters that tests start load it as their
`sitecustomize`, since it puts its folder first on PYTHONPATH.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("actors", "learner", "reward_service", "vision_sr1")
NCCL_OVER_GLOO = "VISION_SR1_TESTS_NCCL_OVER_GLOO"  # as in that module, which is not imported for its name
TRANSFERS = "vision_sr1.weights.plugin"  # what every process that transfers weights imports before any engine of theirs


class AnnotatedModules(MetaPathFinder):
    """Hands modules of PACKAGES that import jaxtyping to its import hook, which is imported for the first of them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if name.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None or not has_shapes(Path(spec.origin)):
            return None
        from jaxtyping import install_import_hook

        with install_import_hook([name], "beartype.beartype"):
            hook = sys.meta_path[0]
        return hook.find_spec(name, path, target)


class NcclOverGloo(MetaPathFinder):
    """Finds nothing, but replaces NCCL before the first module that may use it."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> None:
        """See `MetaPathFinder`."""
        if name == TRANSFERS and os.environ.get(NCCL_OVER_GLOO):
            from tests.system import nccl_over_gloo

            nccl_over_gloo.install()


def has_shapes(file: Path) -> bool:
    """Whether a source file annotates tensors with their shapes."""
    return file.suffix == ".py" and "from jaxtyping import" in file.read_text()


def _inherit(folder: str) -> None:
    """Has the interpreters that this one starts load this module too."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder not in inherited:
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, inherited)])


_inherit(str(Path(__file__).parent))
sys.meta_path[:0] = [NcclOverGloo(), AnnotatedModules()]
