"""Mistakes that are found before anything is started or moved: settings, data, model, GPUs, addresses, Redis."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from vision_sr1.cli.launcher.services import divided
from vision_sr1.config import Config, ConfigError
from vision_sr1.data.conversations import Conversations
from vision_sr1.data.mixture import conversations, questions
from vision_sr1.data.questions import Questions
from vision_sr1.models.check import check_cpu_actors, check_model
from vision_sr1.prompting.prompt_template import PromptTemplate
from vision_sr1.resuming.changes import Stage
from vision_sr1.runtime.gpus import actors_use_gpus, visible_gpus
from vision_sr1.runtime.ports import Ports
from vision_sr1.streams import connect


def check(config: Config, stage: Stage) -> None:
    """Reads what the stage's services will read; of data and weights as little as tells whether they can be used.

    Raises:
        ConfigError: a value cannot be used.
        DataError: a set cannot be read.
        TemplateError: so for a prompt template.
        StreamsUnavailableError: the configured Redis does not answer.
    """
    data = config.data
    if data.image_root is not None and not data.image_root.is_dir():
        raise ConfigError(f"data.image_root: there is no folder {str(data.image_root)!r}")
    if stage == "sft":
        if not data.sft:
            raise ConfigError("data.sft names no conversations: set data.sft=FILE")
        conversations(data.sft, data, config.run.seed)
        for held_out in data.sft_evaluation:
            Conversations(held_out.path, data)
        output = config.learner.sft.output
        if output is not None and output.exists():
            raise ConfigError(f"{output} already exists; remove it or choose another learner.sft.output")
        check_services(config, learners=config.learner.processes, actors=0)
    else:
        if not data.train:
            raise ConfigError("data.train names no prompts: set data.train=FILE")
        questions(config)
        if config.reward.requery.questions > 1:
            _check_further_questions(config)
        for split in data.evaluation.values():
            Questions(split, data)
        for template in (data.prompt_template, config.reward.requery.template):
            PromptTemplate(template)
        check_services(config, learners=config.learner.processes, actors=config.actors.count)
    check_model(config.model)
    if stage != "sft" and not actors_use_gpus(config.actors.device):
        check_cpu_actors(config)


def _check_further_questions(config: Config) -> None:
    data = config.data
    sets = [Questions(source.path, data, reward=config.reward, further="any") for source in data.train]
    if not any(rows.has_further_questions() for rows in sets):
        raise ConfigError(
            f"reward.requery.questions is {config.reward.requery.questions}, and no row of data.train has further "
            f"questions: none has the images of another, and no set has a column {data.further_questions_key!r} with "
            "{question, answer} (data.further_questions_key). Name the column, or set reward.requery.questions=1"
        )


def check_services(config: Config, *, learners: int, actors: int) -> None:
    """Whether so many ranks and actors can be started on this machine.

    Raises:
        ConfigError: there are too few GPUs, an address is not this machine's, or an actor's port is taken.
        StreamsUnavailableError: the configured Redis does not answer.
    """
    gpus = visible_gpus()
    if actors and config.actors.device == "cuda" and not gpus:
        raise ConfigError("actors.device is cuda, and there is no GPU here: set actors.device=auto")
    divided(gpus, learners, 0 if config.actors.device == "cpu" else actors, config)
    with Ports() as ports:
        for section in ("metrics", *(("reward", "actors") if actors else ())):
            host = getattr(config, section).host
            try:
                ports.keep(host)
            except (ConfigError, UnicodeError) as error:
                raise ConfigError(f"{section}.host: {host!r} is not an address of this machine") from error
        wanted = config.actors.port
        if actors and wanted and ports.keep(config.actors.host, wanted) != wanted:
            raise ConfigError(f"actors.port {wanted} is in use: choose another, or 0 for a free one")
    if actors and config.streams.url is not None:
        with ThreadPoolExecutor(1) as thread:  # a notebook's cells run in a thread that has an event loop
            thread.submit(asyncio.run, _reach_redis(config)).result()


async def _reach_redis(config: Config) -> None:
    await (await connect(config.streams)).aclose()
