"""Loading the configuration: defaults, preset, YAML file, environment, `section.key=value`; each beats those before it.

A file may build on another: `extends: other.yaml`, relative to its own folder, loads that one beneath it.
"""

import difflib
import itertools
import json
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from vision_sr1.config.examples import example_path
from vision_sr1.config.learner import LearnerConfig
from vision_sr1.config.run import NAME
from vision_sr1.config.section import SettingError
from vision_sr1.config.tree import Config
from vision_sr1.errors import UserError
from vision_sr1.run_folder.names import SETTINGS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# Keys that had another name in the release before, which is still read, with a warning. They stay in their sections.
RENAMED = {
    "sampling.seeded": "sampling.deterministic_sampling",
    "learner.groups.drop_without_signal": "learner.groups.dynamic_sampling",
    "learner.weights.full_every": "learner.weights.full_sync_every",
    "streams.spent_groups": "streams.incomplete_groups",
    "streams.outage_s": "streams.retry_for_s",
    "learner.reference.offload": "learner.reference.placement",
}
FORMER_VALUES: dict[str, dict[Any, Any]] = {"learner.reference.offload": {False: "policy", True: "cpu"}}
PRESETS = Path(__file__).parent / "presets"
ENVIRONMENT = {
    "VISION_SR1_API_TOKEN": "reward.api.token",
    "VISION_SR1_JUDGE_API_KEY": "reward.judge.api_key",
    "VISION_SR1_REDIS_URL": "streams.url",
    "VISION_SR1_REDIS_PASSWORD": "streams.password",
    "VISION_SR1_TRACES_PASSWORD": "reward.traces.password",
}
SYNONYMS = {"lr": "learning_rate"}  # of other trainers, for keys that are not known here
CURES = {  # by what YAML finds
    "\\t": "indent with spaces",
    "unhashable key": "write text that begins with { or [ in quotes",
    "recursive node": "an anchor cannot be within its own value: leave the * out",
}
_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")  # in a URL
_SECRETS: Any = {"streams": {"password"}, "reward": {"api": {"token"}, "judge": {"api_key"}, "traces": {"password"}}}


class ConfigError(UserError):
    """The configuration cannot be used; the message names the key, the value and the way out."""


class MissingPathError(ConfigError):
    """A setting names a file or folder that is not there.

    Attributes:
        path: the one that is missing.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class LoadedConfig:
    """The effective configuration.

    Attributes:
        origins: by dotted key, where each value that is not a default came from.
        renamed: a sentence for each key that was given under its former name.
    """

    config: Config
    origins: dict[str, str]
    renamed: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str, str]]:
        """(key, value, origin) of every leaf of the tree; secrets are masked."""
        return [(key, shown(value), self.origin(key)) for key, value in _leaves(self.config)]

    def with_origin(self, message: str) -> str:
        """A message that begins with a setting's key, with the place where its value came from."""
        origin = self.origin(message.partition(": ")[0])
        if origin == "default":
            return message
        return f"{message} (from {'the command line' if origin == 'command line' else origin})"

    def origin(self, key: str) -> str:
        """Where a setting's value came from: `default`, a preset, a file, the environment or the command line."""
        above = [known for known in self.origins if _is_within(key, known)]
        return self.origins[max(above, key=len)] if above else "default"


def load_config(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> LoadedConfig:
    """Reads the file, the environment's secrets and the command line's overrides into one tree.

    Args:
        path: of the file, see `example_path`; None: defaults.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, or a value does not fit.
    """
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    renamed: list[str] = []
    if path is not None:
        for file, part in _files(example_path(path)):
            _drop_empty_sections(part, Config)
            renamed += _rename(part, str(file))
            _put_beneath(tree, part, str(file), origins)
    for variable, key in ENVIRONMENT.items():
        value = (os.environ if environment is None else environment).get(variable)
        if value:  # a compose file gives an empty one where there is none
            _put_on_top(tree, key, value, f"environment {variable}", origins)
    for override, following in itertools.zip_longest(overrides, overrides[1:], fillvalue=""):
        key, separator, text = override.partition("=")
        if not separator:
            value = following if following and "=" not in following else "VALUE"
            raise ConfigError(f"override {override!r} is not of the form section.key=value: write {override}={value}")
        if "." not in key or not all(key.split(".")):
            raise ConfigError(f"override {override!r} is not of the form section.key=value")
        value = _current_value(key, _parsed(text, f"override {override!r}"))
        if key in RENAMED:
            renamed.append(_renaming(key, "command line"))
        _put_on_top(tree, current_key(key), value, "command line", origins)
    _refuse_unknown_keys(tree, Config, "")
    learner = tree.setdefault("learner", {})
    preset = learner.get("preset", LearnerConfig.model_fields["preset"].default) if isinstance(learner, dict) else None
    if preset is not None:
        _put_beneath(tree, _read_preset(preset), f"preset {preset}", origins)
    try:
        return LoadedConfig(Config.model_validate(tree), origins, tuple(renamed))
    except ValidationError as error:
        raise ConfigError("\n".join(map(_mistake, error.errors()))) from None


def current_key(key: str) -> str:
    """A setting's dotted key as it is now, by that or by its former one."""
    return RENAMED.get(key, key)


def _current_value(key: str, value: Any) -> Any:
    """The value as it is now of a key, which may be a former one."""
    values = FORMER_VALUES.get(key, {})
    return values[value] if isinstance(value, Hashable) and value in values else value


def _rename(tree: dict[str, Any], origin: str) -> list[str]:
    """Gives keys of a file their present names; a sentence for each that had its former one.

    Raises:
        ConfigError: a key is there under both names.
    """
    renamed = []
    for former, present in RENAMED.items():
        *parents, leaf = former.split(".")
        section: Any = tree
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict) or leaf not in section:
            continue
        name = present.rpartition(".")[2]
        if name in section:
            raise ConfigError(f"{origin}: {former} is the former name of {present}: give one of them")
        section[name] = _current_value(former, section.pop(leaf))
        renamed.append(_renaming(former, origin))
    return renamed


def _renaming(former: str, origin: str) -> str:
    values = ", ".join(f"{json.dumps(was)} is {value}" for was, value in FORMER_VALUES.get(former, {}).items())
    now = f"{RENAMED[former]} now ({values})" if values else f"{RENAMED[former]} now"
    return f"{former} ({origin}) is called {now}: the former name is read in this release alone"


def override(key: str, value: str | Path) -> str:
    """`key=value` as the command line has it, for text of any kind."""
    return f"{key}={json.dumps(str(value), ensure_ascii=False)}"


def place_of(run: Path) -> list[str]:
    """Overrides for the place where a run's folder is now.

    Raises:
        ConfigError: a run cannot have the name of this folder.
    """
    folder = run.resolve()
    if not re.match(NAME, folder.name):
        raise ConfigError(
            f"{folder.name!r} cannot be the name of a run, which has letters, digits, '.', '_' and '-': rename {folder}"
        )
    return [override("run.dir", folder.parent), override("run.name", folder.name)]


def save_config(config: Config, path: Path) -> None:
    """Writes the effective tree, secrets left out (services read those from the environment)."""
    path.write_text(yaml.safe_dump(saved_settings(config), sort_keys=False), encoding="utf-8")


def saved_settings(config: Config) -> dict[str, Any]:
    """The effective tree as a file has it, secrets left out."""
    return config.model_dump(mode="json", exclude=_SECRETS)


def public_settings(config: Config) -> dict[str, Any]:
    """The effective tree for others to see: without secrets, and without the addresses of servers."""
    hidden: Any = {"streams": True, "tls": True, "reward": {"api": True, "judge": {"api_key", "url"}, "traces": True}}
    return config.model_dump(mode="json", exclude=hidden)


def _files(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file and those it extends, one after the other; their `extends` taken out."""
    files: list[tuple[Path, dict[str, Any]]] = []
    following: Path | None = path
    while following is not None:
        if following.resolve() in [file.resolve() for file, _ in files]:
            raise ConfigError(f"{files[-1][0]} extends {following}, which extends it in turn")
        if files and not following.is_file():
            raise ConfigError(f"{files[-1][0]} extends {following}, and there is no such file")
        tree = _read_yaml(following)
        files.append((following, tree))
        base = tree.pop("extends", None)
        if not isinstance(base, str | None):
            raise ConfigError(f"{following}: extends takes the path of one file, not {base!r}")
        following = _extended(following, base) if base is not None else None
    return files


def _extended(file: Path, base: str) -> Path:
    """What a file extends: beside it, or an example of this installation."""
    beside, example = file.parent / base, example_path(Path(base))
    return example if example.exists() and not beside.exists() else beside


def _read_preset(name: Any) -> dict[str, Any]:
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
        raise ConfigError(f"learner.preset: unknown preset {name!r}; known: {known}")
    return _read_yaml(path)


def _put_beneath(
    tree: dict[str, Any], below: dict[str, Any], origin: str, origins: dict[str, str], prefix: str = ""
) -> None:
    """Adds to the tree what it does not have yet; lists are taken whole."""
    for key, value in below.items():
        if key not in tree:
            tree[key] = value
            origins.update({f"{prefix}{leaf}": origin for leaf, _ in _leaves({key: value})})
        elif isinstance(tree[key], dict) and isinstance(value, dict):
            _put_beneath(tree[key], value, origin, origins, f"{prefix}{key}.")


def _put_on_top(tree: dict[str, Any], key: str, value: Any, origin: str, origins: dict[str, str]) -> None:
    """Replaces what the tree has at a dotted key, and all within it."""
    _set(tree, key, value)
    for known in [known for known in origins if _is_within(known, key)]:
        del origins[known]
    origins[key] = origin


def _is_within(key: str, outer: str) -> bool:
    return key == outer or key.startswith((outer + ".", outer + "["))


def _drop_empty_sections(tree: dict[str, Any], model: type[BaseModel]) -> None:
    """Takes out sections and mappings of a file that have nothing in them."""
    for name, field in model.model_fields.items():
        kind = get_origin(field.annotation) or field.annotation
        if not (isinstance(kind, type) and issubclass(kind, (BaseModel, dict))):
            continue
        if issubclass(kind, BaseModel) and isinstance(tree.get(name), dict):
            _drop_empty_sections(tree[name], kind)
        if name in tree and tree[name] in (None, {}):
            del tree[name]


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        saved = path / SETTINGS
        hint = f", {saved}" if saved.is_file() else ""
        raise ConfigError(f"{path} is a folder: name the run's YAML file{hint}")
    if not path.is_file():
        raise ConfigError(f"no configuration file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    tree = _parsed(text, str(path)) or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, not {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """Refuses what YAML's own loader takes: a mapping that has a key twice, and an anchor within its own value."""

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # values are made before what they are in, so that none is in itself
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value} is there twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(
            f"{where} is nested too deeply, or has an anchor within its own value: write it flat"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        hint = next((f"; {cure}" for sign, cure in CURES.items() if sign in str(problem)), "")
        raise ConfigError(f"{where} is not valid YAML{at}: {' '.join(str(problem).split())}{hint}") from None


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents, start=1):
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            section = ".".join(parents[:depth])
            raise ConfigError(f"{section}: must be a section of keys and values (got {shown(child)[:200]})")
        tree = child
    tree[leaf] = value


def _refuse_unknown_keys(tree: dict[str, Any], model: type[BaseModel], prefix: str) -> None:
    for key, value in tree.items():
        field = model.model_fields.get(key)
        if field is None:
            name, bracket, _ = str(key).partition("[")
            if bracket and name in model.model_fields:
                raise ConfigError(
                    f"{prefix}{key}: a list is given whole, such as {prefix}{name}='[{shown(value)}, ...]'; "
                    "`vision-sr1 config show --yaml` prints all of it"
                )
            meant = SYNONYMS.get(str(key), str(key))
            near = difflib.get_close_matches(meant, model.model_fields, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(model.model_fields)}"
            raise ConfigError(f"unknown key {prefix}{key}: {hint}")
        candidates = [field.annotation, *get_args(field.annotation)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if section is None:
            continue
        if isinstance(value, dict) and get_origin(field.annotation) is dict:
            for name, item in value.items():
                if isinstance(item, dict):
                    _refuse_unknown_keys(item, section, f"{prefix}{key}.{name}.")
        elif isinstance(value, dict):
            _refuse_unknown_keys(value, section, f"{prefix}{key}.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    _refuse_unknown_keys(item, section, f"{prefix}{key}[{index}].")


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, BaseModel):
        tree = {name: getattr(tree, name) for name in type(tree).model_fields}
    if isinstance(tree, dict) and tree:
        return [
            leaf for key, value in tree.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(tree, list) and any(isinstance(item, (BaseModel, dict)) for item in tree):
        return [leaf for i, item in enumerate(tree) for leaf in _leaves(item, f"{prefix}[{i}]")]
    return [(prefix, tree)]


def _mistake(error: "ErrorDetails") -> str:
    """One line of what does not fit."""
    key, value = ".".join(map(str, error["loc"])) or "configuration", error["input"]
    if error["type"] in ("model_type", "dict_type"):
        return f"{key}: must be a section of keys and values (got {shown(value)[:200]})"
    said = error["msg"].removeprefix("Value error, ")
    if isinstance(error.get("ctx", {}).get("error"), SettingError):
        return ".".join((*map(str, error["loc"]), said))
    if isinstance(value, dict) and error["type"] == "value_error":
        return f"{key}: {said}"
    if error["loc"] and error["loc"][-1] == "[key]":
        return f"{'.'.join(map(str, error['loc'][:-2]))}: the key {shown(value)} must be text: write it in quotes"
    return f"{key}: {said} (got {shown(value)[:200]}){_hint(error)}"


def _hint(error: "ErrorDetails") -> str:
    """The way out of a mistake that only its form is."""
    loc, value = list(map(str, error["loc"])), error["input"]
    if isinstance(value, dict) and len(value) == 1 and len(loc) > 1:
        (rest, meant), *_ = value.items()
        whole = json.dumps({f"{loc[-1]}.{rest}": meant}, ensure_ascii=False, default=str)
        return f"; for the name '{loc[-1]}.{rest}' write {'.'.join(loc[:-1]) + '=' + whole!r}"
    if error["type"] != "string_type" or value is None:
        return ""
    if isinstance(value, bool):
        return f"; for text such as yes or on write it in quotes: {override('.'.join(loc), 'yes')!r}"
    return f"; for text write {override('.'.join(loc), str(value))!r}"


def shown(value: Any) -> str:
    """A value as a configuration file has it, in one line; secrets are masked."""
    if isinstance(value, SecretStr):
        return "********"
    if value is None or isinstance(value, (bool, list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return _PASSWORD.sub(r"\1********@", str(value))
