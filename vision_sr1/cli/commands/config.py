"""`vision-sr1 config`: the effective configuration, shown and begun."""

import json
import shutil
import textwrap
from pathlib import Path
from typing import Annotated

import typer
import yaml

from vision_sr1.cli.terminal import Overrides, console, fail, load
from vision_sr1.config import LoadedConfig, saved_settings
from vision_sr1.config.descriptions import describe
from vision_sr1.config.examples import EXAMPLES

config_app = typer.Typer(no_args_is_help=True, help="The effective configuration.")

LONGEST_VALUE = 40  # columns that a value gets before it moves its origin to the right


@config_app.command("show")
def config_show(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="The run's YAML file; without one, the defaults.")
    ] = None,
    overrides: Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="As a file that can be used as a configuration.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    described: Annotated[
        bool, typer.Option("--describe", help="With each setting's description, default and origin.")
    ] = False,
) -> None:
    """Print every value and its origin: default, preset, file, environment or command line.

    Secrets are masked; --yaml and --json leave them out.
    """
    if as_yaml + as_json + described > 1:
        fail("--yaml, --json and --describe exclude each other: give one of them")
    if config is not None and "=" in str(config) and not config.exists():  # a setting: the file may be left out
        config, overrides = None, [str(config), *(overrides or [])]
    loaded = load(config, overrides)
    if as_yaml:
        text = yaml.safe_dump(saved_settings(loaded.config), sort_keys=False, allow_unicode=True)
    elif as_json:
        text = json.dumps(saved_settings(loaded.config), indent=2, ensure_ascii=False) + "\n"
    else:
        text = _descriptions(loaded) if described else _table(loaded)
    typer.echo(text, nl=False)


@config_app.command("init")
def config_init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")],
    example: Annotated[
        str,
        typer.Option(metavar="NAME", help="The example to begin with, such as shapes/rl or gpus/vision_sr1_3b_1gpu."),
    ] = "vision_sr1_3b",
) -> None:
    """Begin a run's file with a copy of an example."""
    if EXAMPLES is None:
        fail("this installation has no examples: it is a service's alone")
    known = {str(path.relative_to(EXAMPLES).with_suffix("")): path for path in sorted(EXAMPLES.rglob("*.yaml"))}
    if example not in known:
        fail(f"--example: no example {example!r}; there are {', '.join(known)}")
    if file.exists():
        fail(f"{file} already exists; remove it or choose another name")
    source = known[example]
    if "extends:" in source.read_text(encoding="utf-8"):
        file.write_text(
            f"# Beginning with {example}; what is written here takes precedence.\nextends: {source}\n", "utf-8"
        )
    else:
        shutil.copyfile(source, file)
    data = load(file, None).config.data
    command = f"vision-sr1 {'sft' if data.sft and not data.train else 'train'} {file}"
    first = "set" if not (data.train or data.sft) else "look at"
    console.print(f"wrote {file}: {first} its data.*, then `{command}`", highlight=False, markup=False)


def _table(loaded: LoadedConfig) -> str:
    """A line a setting; nothing is cut off, whatever the width of the terminal."""
    rows = [("key", "value", "origin"), *loaded.rows()]
    keys = max(len(key) for key, _, _ in rows)
    values = min(LONGEST_VALUE, max(len(value) for _, value, _ in rows))
    return "".join(f"{key:<{keys}}  {value:<{values}}  {origin}\n" for key, value, origin in rows)


def _descriptions(loaded: LoadedConfig) -> str:
    """A paragraph a setting."""
    paragraphs = []
    for key, value, origin in loaded.rows():
        description, default = describe(key)
        lines = [f"{key}: {value}"]
        lines += textwrap.wrap(description, 100, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"    from {origin}" + (f"; default: {default}" if default is not None else ""))
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs) + "\n"
