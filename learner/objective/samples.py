"""From scored groups to what the objective needs: sequences with behaviour log-probabilities, masks and advantages."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from vision_sr1.config import LearnerConfig
from vision_sr1.credit.advantages import component_advantages, has_signal
from vision_sr1.credit.assignment import group_rewards, token_sets
from vision_sr1.credit.requeries import Place, requery_advantages
from vision_sr1.pipeline.scored_groups import is_truncated
from vision_sr1.v1 import pipeline_pb2 as pb

Part = Literal["description", "think", "answer"]
PARTS: tuple[Part, ...] = ("description", "think", "answer")


@dataclass(frozen=True)
class TrainingSample:
    """One sampled sequence: an answering rollout or a re-query.

    Attributes:
        sample: prompt and response token ids.
        images: of the prompt; empty for a re-query.
        behaviour_logprobs: of the response tokens, under the policy that sampled them.
        staleness: of the response tokens: versions between the policy that sampled them and the one that learns.
        parts: response tokens of each of `PARTS` that the answering rollout has; none of a re-query.
        masks: by component name, the response tokens that it trains; none where the component's reward is missing.
        advantages: by component name.
    """

    sample: pb.Sample
    images: tuple[str, ...]
    behaviour_logprobs: Float[np.ndarray, " response"]
    staleness: Int[np.ndarray, " response"]
    parts: dict[str, Bool[np.ndarray, " response"]]
    masks: dict[str, Bool[np.ndarray, " response"]]
    advantages: dict[str, float]

    def __len__(self) -> int:
        return len(self.sample.prompt_token_ids) + len(self.sample.response_token_ids)

    @property
    def is_trained(self) -> bool:
        """Whether any component trains any of its tokens."""
        return any(mask.any() for mask in self.masks.values())


def to_compute(samples: list[TrainingSample]) -> list[TrainingSample]:
    """Of an optimizer step's samples those that are trained; the shortest where none is, so that the step is taken."""
    return [sample for sample in samples if sample.is_trained] or [min(samples, key=len)]


def by_prompt(samples: list[TrainingSample], most_tokens: int) -> list[list[TrainingSample]]:
    """Samples with one prompt together, which then is computed once; apart where they have more than `most_tokens`."""
    bundles: dict[Hashable, list[list[TrainingSample]]] = {}
    for sample in samples:
        alike = bundles.setdefault((tuple(sample.sample.prompt_token_ids), sample.images), [[]])
        if alike[-1] and tokens_of([*alike[-1], sample]) > most_tokens:
            alike.append([])
        alike[-1].append(sample)
    return list(chain.from_iterable(bundles.values()))


def tokens_of(bundle: list[TrainingSample]) -> int:
    """Of samples with one prompt, which counts once."""
    return len(bundle[0].sample.prompt_token_ids) + sum(len(s.sample.response_token_ids) for s in bundle)


def training_samples(
    groups: list[pb.ScoredGroup], settings: LearnerConfig, policy_version: int
) -> list[list[TrainingSample]]:
    """Each group's sequences, every rollout followed by its re-queries.

    Args:
        groups: a whole batch: advantages may depend on all of it.
        settings: the objective's components and which tokens are left out of them.
        policy_version: of the policy that is to learn, before the batch.
    """
    rewards, epsilon = [group_rewards(group) for group in groups], settings.advantage_epsilon
    answering = {c.name: component_advantages(c, rewards, epsilon) for c in settings.components}
    asking = {c.name: requery_advantages(c, groups, epsilon) for c in settings.components}
    samples: list[list[TrainingSample]] = []
    for number, group in enumerate(groups):
        samples.append([])
        for place, scored in enumerate(group.rollouts):
            images = tuple(ref.sha256 for ref in scored.rollout.prompt.images)
            own = {name: float(values[number][place]) for name, values in answering.items()}
            samples[-1].append(
                _sample(
                    scored.rollout.sample, images, token_sets(scored), _parts(scored), own, settings, policy_version
                )
            )
            for which, requery in enumerate(scored.requeries):
                every = np.ones(len(requery.sample.response_token_ids), dtype=bool)
                own = {name: values[number][place, which] for name, values in asking.items()}
                samples[-1].append(_sample(requery.sample, (), {"requery": every}, {}, own, settings, policy_version))
    return samples


def group_has_signal(group: pb.ScoredGroup, settings: LearnerConfig) -> bool:
    """Whether any component can learn something from the group: some answer or re-query has an advantage."""
    if not group.rollouts:
        return False
    rewards, epsilon = group_rewards(group), settings.advantage_epsilon
    return any(
        (component.tokens != ["requery"] and has_signal(component_advantages(component, [rewards], epsilon)[0]))
        or (component.trains_requery and has_signal(_values(requery_advantages(component, [group], epsilon)[0])))
        for component in settings.components
        if component.weight
    )


def token_staleness(sample: pb.Sample, policy_version: int) -> Int[np.ndarray, " response"]:
    """How many versions before `policy_version` each response token was sampled."""
    staleness = np.zeros(len(sample.response_token_ids), dtype=np.int64)
    for span in sample.versions:
        staleness[span.start : span.end] = policy_version - span.policy_version
    return staleness


def _values(advantages: Mapping[Place, float]) -> Float[np.ndarray, " requeries"]:
    return np.array(list(advantages.values()), dtype=float)


def _parts(scored: pb.ScoredRollout) -> dict[str, Bool[np.ndarray, " response"]]:
    places = np.arange(len(scored.rollout.sample.response_token_ids))
    spans = {part: getattr(scored, part) for part in PARTS if scored.HasField(part)}
    return {part: (span.start <= places) & (places < span.end) for part, span in spans.items()}


def _sample(
    sample: pb.Sample,
    images: tuple[str, ...],
    sets: dict[str, Bool[np.ndarray, " response"]],
    parts: dict[str, Bool[np.ndarray, " response"]],
    advantages: dict[str, float],
    settings: LearnerConfig,
    policy_version: int,
) -> TrainingSample:
    staleness = token_staleness(sample, policy_version)
    trained = np.ones(len(staleness), dtype=bool)
    if settings.off_policy.stale_token_weight == 0:
        trained &= staleness <= settings.max_staleness
    if settings.groups.mask_truncated and is_truncated(sample):
        trained[:] = False
    none = np.zeros(len(staleness), dtype=bool)
    return TrainingSample(
        sample=sample,
        images=images,
        behaviour_logprobs=np.asarray(sample.logprobs, dtype=np.float32),
        staleness=staleness,
        parts=parts,
        masks={
            c.name: none
            if np.isnan(advantages[c.name])
            else trained & np.logical_or.reduce([none, *(sets[tokens] for tokens in c.tokens if tokens in sets)])
            for c in settings.components
        },
        advantages={name: 0.0 if np.isnan(value) else value for name, value in advantages.items()},
    )
