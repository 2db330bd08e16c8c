"""What is said at the end of a run: where everything is, and what can be done with it; or how it goes on."""

from rich.console import Console

from vision_sr1.config import Config
from vision_sr1.resuming.changes import Stage
from vision_sr1.run_folder.checkpoints import newest_whole
from vision_sr1.run_folder.names import SCALARS, SFT_OUTPUT


def print_end(config: Config, stage: Stage, console: Console) -> None:
    """Prints the folder, the newest checkpoint and the next commands of a run that has come to its end."""
    path, checkpoint = config.run.path, newest_whole(config.run.path)
    lines = [f"the run: {path}"]
    if stage == "sft":
        model = config.learner.sft.output or path / SFT_OUTPUT
        lines += [f"the model: {model}", f"train it by RL: vision-sr1 train RUN.yaml model.path={model}"]
    else:
        if checkpoint is not None:
            lines.append(f"the last checkpoint: {checkpoint}")
        lines.append(f"look at the reward traces: vision-sr1 traces {path}")
        if checkpoint is not None:
            lines.append(f"evaluate it: vision-sr1 eval {path} --suite paper")
            lines.append(f"export it for transformers and vLLM: vision-sr1 export {path}")
    console.print("\n".join(lines), highlight=False, markup=False)


def how_to_go_on(config: Config, command: str) -> str:
    """What to do after a run was stopped, which `vision-sr1 COMMAND` had started."""
    checkpoint = newest_whole(config.run.path)
    if checkpoint is not None:
        return f"stopped; `vision-sr1 {command} {config.run.path} --resume` continues from {checkpoint}"
    if (config.run.path / SCALARS).is_file():
        return "stopped before the first checkpoint; --fresh moves this run aside and starts anew"
    return "stopped before the first step; the same command starts anew"
