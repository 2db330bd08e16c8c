"""What is checked of a run on this machine before any process starts: `train` and `sft` refuse, `doctor` lists it all.

A check says what it saw, and raises `UserError` for what keeps the run from working. Those that take no time come
first; libraries that read data and models are imported by those that need them.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from vision_sr1.cli.launcher.resources import divided, keep_ports
from vision_sr1.config import Config, ConfigError, MissingPathError
from vision_sr1.errors import UserError
from vision_sr1.models.check import check_cpu_actors, check_length, check_model, check_place, parameters_of
from vision_sr1.prompting.prompt_template import PromptTemplate
from vision_sr1.run_folder.names import SFT_OUTPUT
from vision_sr1.runtime.entry_points import entry_point
from vision_sr1.runtime.gpus import FLOAT32_IS_SLOW, actors_use_gpus, visible_gpus
from vision_sr1.runtime.ports import Ports
from vision_sr1.runtime.reward_api import check_closed
from vision_sr1.runtime.trackers import check_trackers

if TYPE_CHECKING:
    from vision_sr1.resuming.changes import Stage

State = Literal["ok", "warning", "failed"]

SERVER_S = 3.0  # for a tracker's server to answer
RENEW_DAYS = 14.0
OPTIMIZER_BYTES = 12  # of a parameter in a checkpoint: float32 weight and both moments of Adam
GIB = 2**30
OF_SERVICES = {  # checks of what this machine starts; why elsewhere nothing may be wrong
    "ports": "where this run goes on, they are its own",
    "access": "where the reward service runs elsewhere, it needs the token there",
}


@dataclass(frozen=True)
class Finding:
    """What a check saw, and what to do about it."""

    check: str
    state: State
    said: str
    cure: str = ""


def check(config: Config, stage: "Stage", warn: Callable[[str], None], *, starts_services: bool = True) -> None:
    """Reads what the stage's services will read; of data and weights as little as tells whether they can be used.

    Args:
        warn: is given what does not keep the run from starting.
        starts_services: no services of the run's are there yet, so that its ports are to be free.

    Raises:
        ConfigError: a value cannot be used; the message begins with its key.
        DataError, TemplateError: so for a data set or a prompt template.
        StreamsUnavailableError: the configured Redis does not answer.
    """
    data, output = config.data, config.learner.sft.output or config.run.path / SFT_OUTPUT
    if stage == "sft" and not data.sft:
        raise ConfigError("data.sft names no conversations: set data.sft=FILE")
    if stage == "sft" and config.learner.resume and output.exists():
        raise ConfigError(
            f"nothing to resume in {config.run.path}: the stage wrote its model, {output}; run.name=OTHER with another "
            "learner.sft.output trains one more"
        )
    if stage == "sft" and output == config.learner.sft.output and output.exists():
        raise ConfigError(f"learner.sft.output: {output} already exists; remove it or choose another")
    if stage == "rl" and not data.train:
        raise ConfigError("data.train names no prompts: set data.train=FILE")
    for name, look in CHECKS.items():
        if name in OF_SERVICES and not starts_services:
            continue
        finding = look(config, stage)
        if finding.state == "warning":
            warn("; ".join(filter(None, (finding.said, finding.cure))))
    if stage == "rl" and starts_services:
        _reach_redis(config)


def findings(config: Config) -> Iterator[Finding]:
    """All checks of this machine."""
    stage: Stage = "sft" if config.data.sft and not config.data.train else "rl"
    told: set[str] = set()
    for name, look in CHECKS.items():
        try:
            yield look(config, stage)
        except ImportError as error:
            yield Finding(name, "ok", f"not looked at: {error.name} is not installed here")
        except UserError as error:
            if name in OF_SERVICES:
                yield Finding(name, "warning", str(error), OF_SERVICES[name])
            elif str(error) not in told:
                yield Finding(name, "failed", str(error))
            told.add(str(error))


def check_services(config: Config, *, learners: int, actors: int) -> None:
    """Whether so many ranks and actors can be started on this machine.

    Raises:
        ConfigError: there are too few GPUs, an address is not this machine's, or a port that was asked for is taken.
        StreamsUnavailableError: the configured Redis does not answer.
    """
    _check_gpus(config, learners, actors)
    with Ports() as kept:
        keep_ports(kept, config, learners=learners, actors=actors)
    if actors:
        _reach_redis(config)


def files(config: Config, stage: "Stage") -> Finding:
    """Whether all files and folders are there that the configuration names."""
    data = config.data
    if importlib.util.find_spec("datasets") is not None:  # else nothing reads data here
        for setting, source in _sources(config, stage):
            _check_source(setting, source)
        if data.image_root is not None and not data.image_root.is_dir():
            raise MissingPathError(f"data.image_root: there is no folder {data.image_root}", str(data.image_root))
    if stage == "rl":
        templates = {"data.prompt_template": data.prompt_template}
        templates["reward.requery.template"] = config.reward.requery.template
        for setting, template in templates.items():
            with _of(setting):
                PromptTemplate(template)
        for name, function in config.reward.functions.items():
            if function.function is None:
                entry_point(name)
            else:
                _check_function(f"reward.functions.{name}.function", function.function)
    if config.tls.enabled:
        for key in ("certificate", "key", "ca"):
            if not (path := getattr(config.tls, key)).is_file():
                raise MissingPathError(f"tls.{key}: no file {path}", str(path))
    check_place(config.model.path)
    return Finding("files", "ok", "all that the configuration names are there")


def gpus(config: Config, stage: "Stage") -> Finding:
    """GPUs for the learner's ranks and the actors, and whether they would compute in float32."""
    here = visible_gpus()
    _check_gpus(config, config.learner.processes, 0 if stage == "sft" else config.actors.count)
    if actors_use_gpus(config.actors.device) and config.model.dtype == "float32":
        said, _, cure = FLOAT32_IS_SLOW.partition("; ")
        return Finding("GPU", "warning", said, cure)
    return Finding("GPU", "ok", f"{len(here)} here" if here else "none here; actors.device allows the CPU")


def ports(config: Config, stage: "Stage") -> Finding:
    """Whether ports that were asked for are free, and addresses are this machine's."""
    with Ports() as kept:
        actors = 0 if stage == "sft" else config.actors.count
        found = keep_ports(kept, config, learners=config.learner.processes, actors=actors)
    return Finding("ports", "ok", ", ".join(f"{setting} {port}" for setting, port in found.items()) or "none are used")


def access(config: Config, stage: "Stage") -> Finding:
    """Whether the API is closed to those who have no token."""
    if stage == "rl":
        check_closed(config)
    return Finding("access", "ok", "the API asks for a token, or is this machine's alone")


def trackers(config: Config, _: "Stage") -> Finding:
    """Whether experiment trackers are installed, have a key, and their servers answer."""
    check_trackers(config)
    names = list(config.metrics.trackers)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "") if "mlflow" in names else ""
    if uri.startswith(("http://", "https://")):
        try:
            parts = urlsplit(uri)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=SERVER_S).close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"metrics.trackers: mlflow's server {uri} does not answer ({reason}): start it, correct "
                "MLFLOW_TRACKING_URI, or unset it to write into the run's folder"
            ) from error
    return Finding("trackers", "ok", ", ".join([*names, *(["tensorboard"] if config.metrics.tensorboard else [])]))


def storage(config: Config, _: "Stage") -> Finding:
    """Whether the run's folder can be written, and has room for checkpoints."""
    folder = config.run.path
    probe = folder / f".doctor-{os.getpid()}"
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"written")
            os.fsync(file.fileno())
        probe.unlink()
        free = shutil.disk_usage(folder).free
        if is_new:
            folder.rmdir()
    except OSError as error:
        raise ConfigError(
            f"run.dir: {folder} cannot be written ({error.strerror}): it must be writable by user {os.getuid()} of "
            "every service; see the volume's fsGroup or owner"
        ) from error
    said = f"{folder}: {free / GIB:.0f} GiB free"
    one = _checkpoint_bytes(config)
    if one is None:
        return Finding("storage", "ok", said)
    said += f"; a checkpoint takes about {one / GIB:.2g} GiB"
    cure = "free space, or choose another run.dir"
    if free < one:
        raise ConfigError(f"run.dir: {said}: {cure}")
    if free < (config.learner.keep_checkpoints + 1) * one:  # the next is written before the oldest is deleted
        return Finding("storage", "warning", said, f"{cure}, or lower learner.keep_checkpoints")
    return Finding("storage", "ok", said)


def certificate(config: Config, _: "Stage") -> Finding:
    """Whether the certificate fits its key and authority, and for how long it will."""
    tls = config.tls
    if not tls.enabled:
        return Finding("certificate", "ok", "none: tls.enabled is false")
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
        context = ssl.create_default_context(cafile=str(tls.ca))
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tls.certificate: {tls.certificate} cannot be used ({error}); tls.certificate, tls.key and tls.ca are to "
            "be PEM files that belong together"
        ) from error
    days = (found.not_valid_after_utc.timestamp() - time.time()) / 86_400
    said = f"{tls.certificate}: {days:.0f} days left"
    if days < 0:
        raise ConfigError(f"tls.certificate: {said}; renew it: actors take the new one up by themselves")
    if days < RENEW_DAYS:
        return Finding("certificate", "warning", said, "renew it in time; actors take the new one up by themselves")
    return Finding("certificate", "ok", said)


def data(config: Config, stage: "Stage") -> Finding:
    """Whether the data sets can be read and have the columns that the configuration names."""
    sources = list(_sources(config, stage))
    if not sources:
        return Finding("data", "ok", "data.train and data.sft are not set: nothing is read")
    from vision_sr1.data.conversations import Conversations
    from vision_sr1.data.mixture import Mixture
    from vision_sr1.data.questions import Further, Questions

    asks_further = stage == "rl" and config.reward.requery.questions > 1
    rows: list[Any] = []
    for setting, source in sources:
        with _of(setting):
            if setting.startswith("data.sft"):
                rows.append(Conversations(source, config.data))
            else:
                further: Further = "any" if setting.startswith("data.train") and asks_further else "none"
                rows.append(Questions(source, config.data, reward=config.reward, further=further))
    if asks_further and not any(questions.has_further_questions() for questions in rows[: len(config.data.train)]):
        raise ConfigError(
            f"reward.requery.questions: {config.reward.requery.questions}, and no row of data.train has further "
            "questions: none has the images of another, and no set has a column "
            f"{config.data.further_questions_key!r} with {{question, answer}} (data.further_questions_key). Name the "
            "column, or set reward.requery.questions=1"
        )
    learned = config.data.train if stage == "rl" else config.data.sft
    Mixture(rows[: len(learned)], [source.weight for source in learned], config.run.seed)
    return Finding("data", "ok", ", ".join(f"{name} {len(of):,}" for (name, _), of in zip(sources, rows, strict=True)))


def model(config: Config, stage: "Stage") -> Finding:
    """Whether the policy's configuration, tokenizer and image processor can be read and belong together."""
    try:
        check_model(config.model)
    except ImportError:
        said = f"{config.model.path}: only its tokenizer is used here; run this beside the learner for the rest"
        return Finding("model", "ok", said)
    if stage == "rl":
        check_length(config.model)
        if not actors_use_gpus(config.actors.device):
            check_cpu_actors(config)
    return Finding("model", "ok", config.model.path)


CHECKS: dict[str, Callable[[Config, "Stage"], Finding]] = {
    "files": files,
    "GPU": gpus,
    "ports": ports,
    "access": access,
    "trackers": trackers,
    "storage": storage,
    "certificate": certificate,
    "data": data,
    "model": model,
}


@contextlib.contextmanager
def _of(setting: str) -> Iterator[None]:
    """Puts a setting's key before what is wrong with its value."""
    try:
        yield
    except UserError as error:
        raise ConfigError(f"{setting}: {error}") from error


def _sources(config: Config, stage: "Stage") -> Iterator[tuple[str, str]]:
    """Data sets of a stage by their settings: what is learned from first."""
    data = config.data
    learned = {"data.train": data.train} if stage == "rl" else {"data.sft": data.sft}
    held_out = {} if stage == "rl" else {"data.sft_evaluation": data.sft_evaluation}
    for setting, sources in (learned | held_out).items():
        for index, source in enumerate(sources):
            yield f"{setting}[{index}]" if len(sources) > 1 else setting, source.path
    if stage == "rl":
        yield from ((f"data.evaluation.{split}", path) for split, path in data.evaluation.items())


def _check_source(setting: str, source: str) -> None:
    from vision_sr1.data.sources import data_files, name_and_split

    name, _ = name_and_split(source)
    if Path(name).is_dir():
        return
    try:
        data_files(name)
    except UserError as error:
        if Path(name).exists():
            raise ConfigError(f"{setting}: {error}") from error
        raise MissingPathError(f"{setting}: {error}", name) from error


def _check_function(setting: str, function: str) -> None:
    module = function.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)  # imports the packages that it is in
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _not_imported(setting, module, error) from error
        found = None
    except Exception as error:
        raise _not_imported(setting, module, error) from error
    if found is None:
        raise ConfigError(f"{setting}: there is no module {module!r}: install it, or put its folder into PYTHONPATH")


def _not_imported(setting: str, module: str, error: Exception) -> ConfigError:
    return ConfigError(f"{setting}: {module!r} cannot be imported: {error!r}")


def _check_gpus(config: Config, learners: int, actors: int) -> None:
    here = visible_gpus()
    if actors and config.actors.device == "cuda" and not here:
        raise ConfigError(
            "actors.device: cuda, and there is no GPU here: set actors.device=auto, or give the container GPUs "
            "(nvidia.com/gpu, --gpus)"
        )
    divided(here, learners, 0 if config.actors.device == "cpu" else actors, config)


def _checkpoint_bytes(config: Config) -> int | None:
    """About what a checkpoint takes: weights, and the optimizer's state; None where the weights are not here yet."""
    parameters = parameters_of(config.model.path)
    if parameters is None:
        return None
    weights = parameters * (4 if config.model.dtype == "float32" else 2)
    return weights if config.learner.lora.rank else weights + OPTIMIZER_BYTES * parameters


def _reach_redis(config: Config) -> None:
    """Connects to the server that the configuration names, if any."""
    from vision_sr1.streams import connect

    async def reach() -> None:
        await (await connect(config.streams)).aclose()

    if config.streams.url is not None:
        with ThreadPoolExecutor(1) as thread:  # a notebook's cells run in a thread that has an event loop
            thread.submit(asyncio.run, reach()).result()
