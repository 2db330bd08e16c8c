"""`python -m vision_sr1`: the command line."""

from vision_sr1.cli.main import app

app()
