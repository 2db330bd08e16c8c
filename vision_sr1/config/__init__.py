"""The configuration: one typed tree, read from one YAML file by every service."""

from vision_sr1.config.actors import ActorsConfig
from vision_sr1.config.data import DataConfig, SourceConfig
from vision_sr1.config.evaluation import EvaluationConfig
from vision_sr1.config.learner import (
    AdvantageNormalizer,
    ComponentConfig,
    Correction,
    DependencyConfig,
    GroupsConfig,
    KlEstimator,
    LearnerConfig,
    LimitConfig,
    LoraConfig,
    OffPolicyConfig,
    Placement,
    ReferenceConfig,
    ScheduleConfig,
    SftConfig,
    StopWhenConfig,
    WeightsConfig,
)
from vision_sr1.config.loading import (
    ConfigError,
    LoadedConfig,
    MissingPathError,
    current_key,
    load_config,
    override,
    place_of,
    public_settings,
    save_config,
    saved_settings,
)
from vision_sr1.config.metrics import MetricsConfig, TrackerName
from vision_sr1.config.model import ModelConfig
from vision_sr1.config.reward import (
    ApiConfig,
    GraderName,
    JudgeConfig,
    RequeryConfig,
    RewardConfig,
    RewardFunctionConfig,
    TracesConfig,
)
from vision_sr1.config.run import RunConfig
from vision_sr1.config.sampling import SamplingConfig
from vision_sr1.config.section import in_home
from vision_sr1.config.streams import StreamsConfig
from vision_sr1.config.tls import TlsConfig
from vision_sr1.config.tree import Config

__all__ = [
    "ActorsConfig",
    "AdvantageNormalizer",
    "ApiConfig",
    "ComponentConfig",
    "Config",
    "ConfigError",
    "Correction",
    "DataConfig",
    "DependencyConfig",
    "EvaluationConfig",
    "GraderName",
    "GroupsConfig",
    "JudgeConfig",
    "KlEstimator",
    "LearnerConfig",
    "LimitConfig",
    "LoadedConfig",
    "LoraConfig",
    "MetricsConfig",
    "MissingPathError",
    "ModelConfig",
    "OffPolicyConfig",
    "Placement",
    "ReferenceConfig",
    "RequeryConfig",
    "RewardConfig",
    "RewardFunctionConfig",
    "RunConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "SftConfig",
    "SourceConfig",
    "StopWhenConfig",
    "StreamsConfig",
    "TlsConfig",
    "TracesConfig",
    "TrackerName",
    "WeightsConfig",
    "current_key",
    "in_home",
    "load_config",
    "override",
    "place_of",
    "public_settings",
    "save_config",
    "saved_settings",
]
