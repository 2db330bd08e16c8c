"""What changed since the checkpoint that a run is resumed from: said, or refused, before anything starts."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_sr1.config import Config
from vision_sr1.resuming.changes import Stage, changes, origin
from vision_sr1.run_folder.checkpoints import newest_whole


def print_changes(config: Config, stage: Stage, console: Console) -> None:
    """Prints a table of them where the run is resumed and there are any.

    Raises:
        ConfigError: the checkpoint cannot be resumed with them.
        DataError: a data set cannot be read.
    """
    checkpoint = newest_whole(config.run.path) if config.learner.resume else None
    if checkpoint is None:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("setting", "checkpoint", "now", "effect"):
        table.add_column(name, overflow="fold")
    for change in changes(checkpoint, config, stage, origin(config, stage)):
        table.add_row(*map(escape, (change.setting, change.then, change.now, change.effect)))
    if table.row_count:
        console.print(f"changed since {checkpoint}:", highlight=False, markup=False)
        console.print(table)
