"""Pages of the site that are not in `docs/`: the files of the repository's root, and references made from the code.

MkDocs calls `on_files`, which adds them (mkdocs.yml, `hooks`). Each reference is a function from the code to Markdown;
tests/vision_sr1/test_site.py holds them to be complete.
"""

import importlib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

ROOT = Path(__file__).parents[1]
FROM_ROOT = {  # file of the root: its page
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
SERVICES = ("actors", "reward_service", "learner", "vision_sr1")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    pages = {page: of_root((ROOT / file).read_text(encoding="utf-8")) for file, page in FROM_ROOT.items()}
    pages |= {
        "reference/commands.md": commands_page(),
        "reference/settings.md": settings_page(),
        "reference/prometheus.md": prometheus_page(),
        "reference/rest.md": rest_page(),
    }
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def of_root(text: str) -> str:
    """A file of the root as a page: its links lead to pages; those to files that are no pages become text."""

    def link(match: re.Match[str]) -> str:
        label, target = match["label"], match["target"]
        file, mark, anchor = target.partition("#")
        if "://" in target or not file:
            return match[0]
        if file in FROM_ROOT:
            return f"[{label}]({FROM_ROOT[file]}{mark}{anchor})"
        if file.startswith("docs/"):
            return f"[{label}]({target.removeprefix('docs/')})"
        return label

    return re.sub(r"\[(?P<label>[^\]]*)\]\((?P<target>[^)\s]+)\)", link, text)


class Setting(NamedTuple):
    """One key of the configuration.

    Attributes:
        name: from the root, such as `learner.schedule.name`; keys of lists and mappings with `[]` and `.NAME`.
        type: as written in the code.
        default: as in YAML; "required" where there is none.
    """

    name: str
    type: str
    default: str
    meaning: str


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the sections."""
    from vision_sr1.config import Config

    return _settings_of(Config, "")


def _settings_of(section: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for key, field in section.model_fields.items():
        name = prefix + key
        inner = list(_sections_in(field.annotation))
        if field.annotation in inner:
            yield from _settings_of(inner[0], f"{name}.")
            continue
        yield Setting(name, _type(field), _default(field), _one_line(field.description or ""))
        for one in inner:
            yield from _settings_of(one, name + (".NAME." if "dict" in str(field.annotation) else "[]."))


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)


def _type(field: FieldInfo) -> str:
    text = inspect.formatannotation(field.annotation)
    text = re.sub(r"Annotated\[(\w+), [^\]]*\]", r"\1", text)
    text = re.sub(r"\b(?:typing|pathlib|pydantic\.types|vision_sr1(?:\.\w+)*)\.", "", text)
    text = text.replace(" | ", " or ").replace("None", "null")
    return re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace("'", "").replace(", ", " or "), text)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    plain = to_jsonable_python(value)
    return plain if isinstance(plain, str) and plain else json.dumps(plain)


def settings_page() -> str:
    """All settings by section."""
    from vision_sr1.config import Config

    parts = [
        "# Settings\n\nEach is a key of the run's YAML file, and can be given on the command line as "
        "`section.key=value`. `vision-sr1 config show FILE` prints the effective values and where each comes from."
    ]
    rows: dict[str, list[Setting]] = {name: [] for name in Config.model_fields}
    for setting in settings():
        rows[setting.name.partition(".")[0].partition("[")[0]].append(setting)
    for section, found in rows.items():
        introduction = inspect.getdoc(Config.model_fields[section].annotation) or ""
        table = _table(
            ("setting", "type", "default", "meaning"),
            [(f"`{one.name}`", f"`{one.type}`", f"`{one.default}`", one.meaning) for one in found],
        )
        parts.append(f"## {section}\n\n{introduction}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by the words that call it."""
    from vision_sr1.cli.main import app

    def below(command: Any, words: str) -> Iterator[tuple[str, click.Command]]:
        if not hasattr(command, "commands"):
            yield words, command
            return
        for name, inner in command.commands.items():
            if not inner.hidden:
                yield from below(inner, f"{words} {name}")

    return below(typer.main.get_command(app), "vision-sr1")


def commands_page() -> str:
    """All commands with their arguments and options."""
    parts = ["# Commands"]
    for words, command in commands():
        rows = []
        for parameter in command.params:
            is_argument = parameter.param_type_name == "argument"
            name = (parameter.metavar or parameter.name or "").upper() if is_argument else ", ".join(parameter.opts)
            rows.append((f"`{name}`", _one_line(getattr(parameter, "help", None) or "")))
        parts.append(
            f"## {words}\n\n{inspect.cleandoc(command.help or '')}\n\n" + _table(("argument", "meaning"), rows)
        )
    return "\n\n".join(parts) + "\n"


def modules_with_metrics() -> Iterator[ModuleType]:
    """Those that may declare metrics."""
    for file in (file for package in SERVICES for file in sorted((ROOT / package).rglob("*.py"))):
        if "prometheus_client" in file.read_text(encoding="utf-8"):
            yield importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))


def prometheus_metrics() -> dict[str, MetricWrapperBase]:
    """Every metric that a module declares, by name."""
    declared = (value for module in modules_with_metrics() for value in vars(module).values())
    metrics = (value for value in declared if isinstance(value, MetricWrapperBase))
    return {next(iter(metric.describe())).name: metric for metric in metrics}


def prometheus_page() -> str:
    """All metrics, by their first words."""
    rows = []
    for name, metric in sorted(prometheus_metrics().items()):
        (described,) = metric.describe()
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        suffix = "_total" if described.type == "counter" else ""
        rows.append((f"`{name}{suffix}`", described.type, labels, described.documentation))
    return (
        "# Prometheus metrics\n\nActors serve them on `metrics.actor_port`, the learner on `metrics.learner_port`, the "
        "reward service at `/metrics` of its API. The learner also has a gauge for each of its "
        "[scalars](../metrics.md). [The runbook](../runbook.md) has the alerts.\n\n"
        + _table(("metric", "kind", "labels", "meaning"), rows)
        + "\n"
    )


def openapi() -> dict[str, Any]:
    """The API's own description."""
    from reward_service.api.app import create_app
    from reward_service.api.context import ApiContext
    from vision_sr1.config import load_config

    config = load_config(None, []).config
    context = ApiContext(config=config, reader=None)  # type: ignore[arg-type]  # no request is answered
    return create_app(context).openapi()


def rest_page() -> str:
    """All routes with their parameters."""
    document = openapi()
    parts = [
        f"# REST API\n\n{document['info']['description']} `vision_sr1.client` has a method for each route; the service "
        "serves this description at `/openapi.json`. Errors are problem details (RFC 9457)."
    ]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts.append(f"## {method.upper()} {path}\n\n{route.get('description') or route.get('summary', '')}")
            parameters = [
                (f"`{one['name']}`", one["in"], _schema(one.get("schema", {})), _one_line(one.get("description", "")))
                for one in route.get("parameters", [])
            ]
            if parameters:
                parts.append(_table(("parameter", "in", "type", "meaning"), parameters))
            answers = [
                f"{status}: {answer['description']}{_answered(answer)}" for status, answer in route["responses"].items()
            ]
            parts.append("Answers: " + "; ".join(answers) + ".")
    parts.append("## Objects")
    for name, model in document["components"]["schemas"].items():
        fields = [
            (f"`{key}`", _schema(one), _one_line(one.get("description", "")))
            for key, one in model.get("properties", {}).items()
        ]
        if fields:
            parts += [
                f"### {name}",
                _one_line(model.get("description", "")),
                _table(("field", "type", "meaning"), fields),
            ]
    return "\n\n".join(parts) + "\n"


def _answered(answer: dict[str, Any]) -> str:
    schemas = [_schema(content.get("schema", {})) for content in answer.get("content", {}).values()]
    named = [schema for schema in schemas if schema]
    return f" ({', '.join(dict.fromkeys(named))})" if named else ""


def _schema(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_schema, schema["anyOf"])))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {})) or 'anything'}"
    return str(schema.get("type", ""))


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *(tuple(_cell(text) for text in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Within code, Python-Markdown shows the backslash before a bar."""
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in re.split(r"(`[^`]*`)", text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
