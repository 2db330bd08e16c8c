"""The command `vision-sr1`, and `python -m vision_sr1`."""

import sys


def main() -> None:
    """Runs the command; without the packages that it needs, names the way to install them."""
    try:
        from vision_sr1.cli.main import app
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed: the command needs `pip install 'vision-sr1[cli,cpu]'`, or [cli,gpu]")
    app(prog_name="vision-sr1")


if __name__ == "__main__":
    main()
