"""The whole tree, and what its sections require of one another."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from vision_sr1.config.actors import ActorsConfig
from vision_sr1.config.data import DataConfig
from vision_sr1.config.evaluation import EvaluationConfig
from vision_sr1.config.learner import LearnerConfig
from vision_sr1.config.metrics import MetricsConfig
from vision_sr1.config.model import ModelConfig
from vision_sr1.config.reward import RewardConfig
from vision_sr1.config.run import RunConfig
from vision_sr1.config.sampling import SamplingConfig
from vision_sr1.config.section import Section, SettingError
from vision_sr1.config.streams import StreamsConfig
from vision_sr1.config.tls import TlsConfig
from vision_sr1.rewards.names import JUDGE, VISUAL_OWN
from vision_sr1.run_folder.names import TRACES


class Config(Section):
    """The whole tree."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    actors: ActorsConfig = ActorsConfig()
    reward: RewardConfig = RewardConfig()
    learner: LearnerConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    streams: StreamsConfig = StreamsConfig()
    tls: TlsConfig = TlsConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _components_use_rewards_that_are_given(self) -> Self:
        for component in self.learner.components:
            for name in component.reward:
                if name == JUDGE and JUDGE not in self.reward.names:
                    raise SettingError(
                        "learner.components",
                        f"component {component.name!r} uses the reward 'judge': set reward.judge.url, and leave "
                        "reward.judge.answers true",
                    )
                if name == VISUAL_OWN and VISUAL_OWN not in self.reward.names:
                    raise SettingError(
                        "learner.components",
                        f"component {component.name!r} uses the reward 'visual_own': set reward.requery.questions to 2 "
                        "or more; with one question it is `visual`",
                    )
                if name not in self.reward.names:
                    known = ", ".join(self.reward.names)
                    raise SettingError(
                        "learner.components", f"component {component.name!r}: unknown reward {name!r}; known: {known}"
                    )
        return self

    @model_validator(mode="after")
    def _requeries_that_components_use_are_made(self) -> Self:
        for component in self.learner.components:
            if component.uses_requery and self.reward.requery.when == "never":
                raise SettingError(
                    "reward.requery.when",
                    f"{self.reward.requery.when}, and component {component.name!r} uses the re-query: set "
                    "reward.requery.when=needed or always",
                )
        return self

    @model_validator(mode="after")
    def _descriptions_have_groups(self) -> Self:
        for component in self.learner.components:
            if component.group == "prompt":
                continue
            compares = f"component {component.name!r} compares the samples of one description (group: description)"
            if self.reward.requery.samples == 1:
                raise SettingError(
                    "reward.requery.samples", f"{compares}, and there is one of each: set it to 2 or more"
                )
            if self.reward.requery.temperature == 0:
                raise SettingError(
                    "reward.requery.temperature", f"{compares}, and greedy ones are all alike: set it to null"
                )
        return self

    @model_validator(mode="after")
    def _turns_on_shared_devices_are_possible(self) -> Self:
        if self.actors.placement == "own":
            return self
        if self.learner.max_staleness > 0:
            raise SettingError(
                "learner.max_staleness",
                f"{self.learner.max_staleness} lets actors answer while the learner learns, which actors.placement: "
                "shared rules out: set learner.max_staleness=0, or actors.placement=own",
            )
        if self.learner.weights.backend == "nccl":
            raise SettingError(
                "learner.weights.backend",
                "nccl cannot connect two processes on one device (actors.placement: shared): set "
                "learner.weights.backend=auto, which takes gloo there, or actors.placement=own",
            )
        return self

    @model_validator(mode="after")
    def _quantized_weights_are_sent_whole(self) -> Self:
        arguments, weights = self.actors.engine_args, self.learner.weights
        quantizes = arguments.get("quantization") or arguments.get("quantization_config")
        if quantizes and weights.send == "delta" and weights.backend != "gloo":
            raise SettingError(
                "learner.weights.send",
                "delta changes elements of weights, and vLLM's are quantized (actors.engine_args.quantization): set "
                "learner.weights.send=full",
            )
        return self

    def has_requery(self, *, evaluation: bool) -> bool:
        """Whether responses with a description get a re-query, in evaluation or in training."""
        when = self.reward.requery.when
        if when == "needed" and not evaluation:
            return bool(self.reward.functions) or any(component.uses_requery for component in self.learner.components)
        return when != "never"

    @property
    def streams_name(self) -> str:
        """The run's name, or what it has in common with others that the same services serve."""
        return self.streams.name or self.run.name

    @property
    def services_path(self) -> Path:
        """Folder of what actors and the reward service keep: the run's own, or that of all runs of `streams.name`."""
        return self.run.dir / self.streams_name

    @property
    def traces_url(self) -> str:
        """SQLAlchemy URL of the trace store."""
        return self.reward.traces.url or f"sqlite:///{(self.services_path / TRACES).absolute()}"
