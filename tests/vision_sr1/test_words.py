"""Text that users read is plain technical English: vague words and metaphors have a term instead."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from vision_sr1.cli.main import app
from vision_sr1.config import Config
from vision_sr1.config.loading import RENAMED

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("vision_sr1", "learner", "actors", "reward_service")
METRICS = {"Counter", "Gauge", "Histogram", "Metric"}
LOG = {"debug", "info", "warning", "error"}

# What is not written, and what is.
INSTEAD = {
    r"let(s|ting)? go of": "release, acknowledge or discard",
    r"(come|comes|came) home": "outstanding re-queries finish",
    r"(is|are|was) said": "the log has, the message names",
    r"said so": "a log event or a message",
    r"says so": "a log event or a message",
    r"somebody|nobody": "the process, the user; no",
    r"torn": "incomplete",
    r"(set|sets|put|moved) aside": "exclude, dead-letter",
    r"hasty|hurried": "without retries; stopping",
    r"patience": "retry policy",
    r"mended": "fixed, normalized",
    r"defused": "escaped",
    r"spent": "incomplete, used",
    r"hearts?": "heartbeat",
    r"hail": "random faults",
    r"(is|are|was) gone": "has left, is down, has expired",
    r"hand(s|ed)? over": "commit",
    r"(put|puts) in force": "apply",
    r"buried|bury": "dead-letter",
    r"whereabouts": "lost prompts",
}
WRONG = re.compile(rf"(?<![\w`])({'|'.join(INSTEAD)})(?![\w`])", re.IGNORECASE)


def plain(text: str) -> str:
    """Without code, whose names are not prose."""
    text = re.sub(r"^( {4,}|\t).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`", "``", text)


def wrong(text: str) -> list[str]:
    return [match[0] for match in WRONG.finditer(plain(text))]


def literals(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield file, node


def messages() -> Iterator[tuple[str, str]]:
    """Help of metrics, log events and texts of errors, with where they are."""
    for file, call in calls():
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        is_log = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "log" and name in LOG
        if (
            name in METRICS
            or name.endswith("Error")
            or name in ("fail", "Finding", "Missing", "MissingReward")
            or is_log
        ):
            for text in literals(call):
                yield f"{file.relative_to(ROOT)}:{call.lineno}", text


def commands() -> Iterator[tuple[str, str]]:
    todo = [typer.main.get_command(app)]
    while todo:
        command = todo.pop()
        todo += getattr(command, "commands", {}).values()
        yield f"vision-sr1 {command.name}", command.help or ""
        for parameter in command.params:
            yield f"vision-sr1 {command.name} {parameter.name}", getattr(parameter, "help", None) or ""


def settings(model: type = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
        sections = [kind for kind in kinds if hasattr(kind, "model_fields")]
        if field.description or not sections:
            yield f"{prefix}{name}", field.description or ""
        for section in sections:
            yield f"{prefix}{name}", section.__doc__ or ""
            yield from settings(section, f"{prefix}{name}.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page: Path):
    found = [
        f"line {number}: {word!r}"
        for number, line in enumerate(plain(page.read_text(encoding="utf-8")).splitlines(), 1)
        for word in wrong(line)
    ]
    assert not found, f"{found}; instead: {INSTEAD}"


@pytest.mark.parametrize("source", [messages, commands, settings])
def test_messages_help_and_settings(source):
    found = [f"{where}: {word!r} in {text!r}" for where, text in source() for word in wrong(text)]
    assert not found, "\n".join(found)


def test_every_setting_and_every_option_is_described():
    assert not [where for where, text in settings() if not text]
    assert not [where for where, text in commands() if not text]


def test_log_events_have_a_stable_key_and_a_message():
    """The key is for programs, the message for people."""
    keys: dict[str, str] = {}
    for file, call in calls():
        if not (isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "log"):
            continue
        if call.func.attr not in LOG or not isinstance(call.args[0], ast.Constant):  # spans are named by their caller
            continue
        where, key = f"{file.relative_to(ROOT)}:{call.lineno}", str(call.args[0].value)
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", key), f"{where}: {key!r} is no snake_case key"
        (message,) = [ast.literal_eval(k.value) for k in call.keywords if k.arg == "message"] or [""]
        assert re.match(r"[A-Zv].*[^.]$", message), f"{where}: {key} needs a message"
        assert keys.setdefault(key, message) == message, f"{where}: {key} has another message elsewhere"


def test_former_names_of_settings_are_not_used():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not [former for former in RENAMED if former in text], page
