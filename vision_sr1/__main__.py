"""The command `vision-sr1`, and `python -m vision_sr1`."""

import sys


def main() -> None:
    """Runs the command; without the packages that it needs, names the way to install them."""
    try:
        from vision_sr1.cli.main import app
    except ModuleNotFoundError as error:
        sys.exit(
            f"{error.name} is not installed: the command needs the extra `cli` and an engine; in a checkout, "
            "`make install` for CPUs, `pip install '.[cli,gpu]'` for GPUs"
        )
    app(prog_name="vision-sr1")


if __name__ == "__main__":
    main()
