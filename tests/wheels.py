"""Wheels of this checkout, and environments in which they are installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = (sys.executable, "-s")  # with an option, it starts as a user's: see forking.py


def run(*command: object, folder: Path) -> str:
    """What a command prints, without this checkout on Python's path."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env={**own, "VISION_SR1_TESTS_FORK": "0"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def wheel_in(folder: Path) -> Path:
    """The only one there."""
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_wheel(folder: Path) -> None:
    """Builds one of this checkout."""
    run(*PYTHON, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, folder=folder)


def install_beside_others(wheel: Path, folder: Path) -> Path:
    """The interpreter of a new environment with the wheel and the other packages of this one, not its checkout."""
    python = folder / "bin" / "python"
    run(*PYTHON, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", where, folder=folder).strip())
    for name in ("vision_sr1_torchvision.py", "vision_sr1_torchvision.pth"):  # as scripts/install does
        shutil.copy(ROOT / "scripts" / name, packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*PYTHON, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, folder=folder)
    imports = "import learner, vision_sr1; print(learner.__file__, vision_sr1.__file__)"
    assert all(Path(file).is_relative_to(packages) for file in run(python, "-c", imports, folder=folder).split())
    return python
