"""Whether the reward service's API is open to anybody."""

from vision_sr1.config import Config, ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def check_closed(config: Config) -> None:
    """Refuses an API that anybody could ask from elsewhere.

    Raises:
        ConfigError: with the way out.
    """
    if config.reward.api.token is None and config.reward.host not in LOOPBACK:
        raise ConfigError(
            f"reward.host: {config.reward.host!r} can be reached from elsewhere: set VISION_SR1_API_TOKEN to a token "
            "that requests must have, or listen on 127.0.0.1"
        )
