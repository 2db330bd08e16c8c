"""The configuration: one typed tree, read from one YAML file by every service."""

from vision_sr1.config.loading import ConfigError, LoadedConfig, load_config, save_config
from vision_sr1.config.schema import (
    ActorsConfig,
    AdvantageNormalizer,
    ComponentConfig,
    Config,
    DataConfig,
    KlEstimator,
    LearnerConfig,
    MetricsConfig,
    ModelConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
    SftConfig,
    StreamsConfig,
    WeightsConfig,
)

__all__ = [
    "ActorsConfig",
    "AdvantageNormalizer",
    "ComponentConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "KlEstimator",
    "LearnerConfig",
    "LoadedConfig",
    "MetricsConfig",
    "ModelConfig",
    "RewardConfig",
    "RunConfig",
    "SamplingConfig",
    "SftConfig",
    "StreamsConfig",
    "WeightsConfig",
    "load_config",
    "save_config",
]
