"""What the README and docs name is there: settings, commands and their options, files, TRL's names."""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from vision_sr1.cli.main import app
from vision_sr1.config import ComponentConfig, Config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = "|".join(Config.model_fields)
SETTING = re.compile(rf"(?<![\w./-])((?:{SECTIONS})(?:\.[a-z][a-z0-9_]*)+)(?![\w/(:-])")
FILES = (".py", ".yaml", ".md", ".jsonl", ".parquet", ".json", ".log", ".html", ".sqlite", ".db", ".txt")
SOURCE = re.compile(
    r"`((?:actors|bench|deploy|learner|proto|reward_service|scripts|tests|vision_sr1)/(?!\.)[\w/.-]*)(?::(\w+))?`"
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def settings_in(text: str) -> set[str]:
    return {name for name in SETTING.findall(text) if not name.endswith(FILES)}


def is_setting(name: str) -> bool:
    """Whether a dotted name leads to a field of the configuration; what follows a mapping's name is the user's."""
    annotation: Any = Config
    for part in name.split("."):
        section = next((t for t in (annotation, *get_args(annotation)) if _is_section(t)), None)
        if section is None:
            return "dict" in str(annotation)
        if part not in section.model_fields:
            return "dict" in str(annotation)
        annotation = section.model_fields[part].annotation
    return True


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def commands_in(text: str) -> list[list[str]]:
    """Lines of indented code that begin with our command, their continuations joined, comments left out."""
    joined = text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if re.match(r"\s{4,}(PYTHONPATH=\. )?vision-sr1 ", line)]
    return [shlex.split(line, comments=True)[1:] for line in (one.removeprefix("PYTHONPATH=. ") for one in lines)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_commands_and_links_are_there(page: Path):
    text = page.read_text(encoding="utf-8")
    if page.name == "coming_from.md":  # whose first columns are of others
        text = re.sub(r"^\| [^|]* \|", "|", text, flags=re.MULTILINE)
    unknown = sorted(name for name in settings_in(text) if not is_setting(name))
    assert not unknown, f"no such settings: {unknown}"
    for command in commands_in(text):
        _check_command(command)
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), f"{target} is linked and not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_functions_that_are_named_are_there(page: Path):
    for file, name in SOURCE.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / file).exists(), f"{file} is named and not there"
        if name:
            assert re.search(rf"(def|class) {name}\b", (ROOT / file).read_text()), f"{file} has no {name}"


def _check_command(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    while hasattr(group, "commands"):
        assert words, "a command is named without what it is to do"
        found = group.commands.get(words[0])
        assert found is not None, f"no command {words[0]!r} in {' '.join(words)}"
        group, words = found, words[1:]
    known = {option for parameter in group.params for option in parameter.opts}
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert set(options) <= known, f"no option {set(options) - known} of {group.name}"
    overrides = [word.partition("=")[0] for word in words if re.match(rf"({SECTIONS})\.[\w.]+=", word)]
    assert all(map(is_setting, overrides)), overrides


def table(title: str) -> list[tuple[str, str]]:
    """A table of the page for those who come from elsewhere: its rows' two cells."""
    page = (ROOT / "docs" / "guides" / "coming_from.md").read_text(encoding="utf-8")
    part = page.partition(f"| {title} | here |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in part.strip().splitlines()[1:]]
    assert all(len(row) == 2 for row in rows), rows
    return [(row[0], row[1]) for row in rows]


def names(cell: str) -> list[str]:
    return re.findall(r"`([a-z][\w.]*)`", cell)


def test_trl_has_the_settings_that_we_translate():
    from trl import GRPOConfig, ModelConfig

    known = {field.name for config in (GRPOConfig, ModelConfig) for field in fields(config)}
    translated = [name for theirs, _ in table("TRL") for name in names(theirs)]
    assert len(translated) > 50
    assert set(translated) <= known, set(translated) - known
    assert len(set(translated)) == len(translated)


@pytest.mark.parametrize("title", ["EasyR1", "TRL"])
def test_what_we_translate_to_is_a_setting_of_a_component_or_of_the_run(title: str):
    rows = table(title)
    assert len(rows) > 20
    for _, ours in rows:
        for name in names(ours):
            if "of a component" in ours and "." not in name and name in ours.partition(" of a component")[0]:
                assert name in ComponentConfig.model_fields, name


def test_a_setting_that_is_not_there_is_found():
    assert settings_in("`learner.preset` and learner.presets, docs/data.md, `data.train`") == {
        "learner.preset",
        "learner.presets",
        "data.train",
    }
    assert is_setting("reward.functions.brevity.timeout_s")
    assert is_setting("learner.weights.update_mode")
    assert not is_setting("learner.presets")
    assert not is_setting("learner.weights.mode")
    with pytest.raises(AssertionError, match="no option"):
        _check_command(["train", "run.yaml", "--again"])
