"""The section `run`."""

from pathlib import Path

from pydantic import Field

from vision_sr1.config.section import HomePath, Section

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # of a folder, and within keys of Redis


class RunConfig(Section):
    """What this run is called and where its files go."""

    name: str = Field("run", pattern=NAME, description="Name of the run.")
    dir: HomePath = Field(
        Path("runs"), description="Folder that contains all runs; the files of this run go to dir/name."
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the data order, of sampling and of weight initialization."
    )

    @property
    def path(self) -> Path:
        """The run's own folder."""
        return self.dir / self.name
