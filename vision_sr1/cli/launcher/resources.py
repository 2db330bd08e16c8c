"""GPUs and ports of this machine, divided among the services of a run."""

from collections.abc import Sequence

from vision_sr1.config import Config, ConfigError
from vision_sr1.runtime.ports import Ports

LARGEST_PORT = 65_535


def divided(gpus: Sequence[str], learners: int, actors: int, config: Config) -> dict[str, str]:
    """GPUs by service, as CUDA_VISIBLE_DEVICES names them: the learner's ranks first, then actor after actor.

    Raises:
        ConfigError: there are some, but not enough.
    """
    each = config.actors.world_size
    shared = config.actors.placement == "shared"
    needed = max(learners, actors * each) if shared else learners + actors * each
    if not gpus:
        return {}
    if needed > len(gpus):
        raise ConfigError(
            f"{needed} GPUs are needed, {learners} for the learner and {each} for each of {actors} actors"
            f"{', in turn' if shared else ''}, and {len(gpus)} are here: set learner.processes and actors.count "
            "(`vision-sr1 plan` says how), let both use the same (actors.placement=shared), or start the services "
            "where there are GPUs for them"
        )
    found = {"learner": ",".join(gpus[:learners])}
    for index in range(actors):
        first = (0 if shared else learners) + index * each
        found[f"actor-{index}"] = ",".join(gpus[first : first + each])
    return found


def keep_ports(ports: Ports, config: Config, *, learners: int, actors: int) -> dict[str, int]:
    """The ports of a run's services by their settings: as configured, or free ones in place of defaults that are taken.

    Raises:
        ConfigError: see `keep_port`; or there are fewer ports than actors from the first one's up.
    """
    found: dict[str, int] = {}

    if actors:
        found["reward.port"] = keep_port(ports, config, "reward.port")
        if config.actors.port and actors > 1:
            raise ConfigError(f"actors.port: {actors} actors cannot share port {config.actors.port}: leave it out")
        with Ports() as released:  # the actor itself binds it
            keep_port(released, config, "actors.port")
    if config.metrics.learner_port and learners and actors:  # supervised fine-tuning has no metrics
        found["metrics.learner_port"] = keep_port(ports, config, "metrics.learner_port")
    if first := config.metrics.actor_port:
        if first + actors - 1 > LARGEST_PORT:
            raise ConfigError(
                f"metrics.actor_port: {first} for the first of {actors} actors leaves too few ports for the others: "
                f"set it to {LARGEST_PORT - actors + 1} or less (the largest port is {LARGEST_PORT})"
            )
        found |= {
            metrics_of_actor(index): keep_port(ports, config, "metrics.actor_port", index) for index in range(actors)
        }
    return found


def keep_port(ports: Ports, config: Config, setting: str, offset: int = 0) -> int:
    """The port of a setting; where the setting has its default, and that is taken, a free one.

    Raises:
        ConfigError: the configuration names the port, and it is taken or root's; or the host is not an address of this
            machine.
    """
    section, _, field = setting.partition(".")
    settings = getattr(config, section)
    wanted = getattr(settings, field) + offset
    try:
        port = ports.keep(settings.host, wanted)
    except ConfigError as error:
        raise ConfigError(f"{section}.host: {settings.host!r} is not an address of this machine") from error
    except PermissionError as error:
        raise ConfigError(f"{setting}: port {wanted} can be opened by root alone: choose one from 1024 up") from error
    if wanted and port != wanted and field in settings.model_fields_set:
        raise ConfigError(f"{setting}: port {wanted} is in use: choose another, or leave it out for a free one")
    return port


def metrics_of_actor(index: int) -> str:
    """What the metrics port of an actor is called among those that are kept."""
    return f"metrics.actor_port (actor-{index})"
