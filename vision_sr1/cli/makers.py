"""Which command makes a file or folder that a run's file names: said where it is not there yet."""

from pathlib import Path

from vision_sr1.config import ConfigError, load_config
from vision_sr1.config.examples import example_path
from vision_sr1.run_folder.names import SFT_OUTPUT

TASKS = ("shapes", "digits", "easy_vqa")  # the folders of examples, and the commands of `vision-sr1 data`
TINY = "tiny"  # the folder of the model that a task's stages begin with


def maker_of(path: str, file: Path) -> str | None:
    """The command, as it is typed; None where none is known.

    Args:
        path: of what is missing.
        file: the run's; files of other stages are beside it.
    """
    wanted, file = Path(path).absolute(), example_path(file)
    for other in sorted(file.parent.glob("*.yaml")):
        try:
            config = load_config(other).config
        except ConfigError:
            continue
        made = config.learner.sft.output or config.run.path / SFT_OUTPUT
        if config.data.sft and made.absolute() == wanted:
            return f"vision-sr1 sft {other}"
    task = file.absolute().parent.name
    if task in TASKS and wanted.suffix == ".parquet":
        return f"vision-sr1 data {task} {Path(path).parent}"
    if task in TASKS and wanted.name == TINY:
        return f"vision-sr1 model tiny {path} --task {task}"
    return None
