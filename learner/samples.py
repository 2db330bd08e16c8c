"""From scored groups to what the objective needs: sequences with behaviour log-probabilities, masks and advantages."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from learner.objective import group_advantages
from vision_sr1.config import ComponentConfig
from vision_sr1.v1 import pipeline_pb2 as pb


@dataclass(frozen=True)
class TrainingSample:
    """One sampled sequence: an answering rollout or a re-query.

    Attributes:
        sample: prompt and response token ids.
        images: of the prompt; empty for a re-query.
        old_logprobs: of the response tokens, under the policy that sampled them.
        masks: by component name, the response tokens that it trains.
        advantages: by component name.
    """

    sample: pb.Sample
    images: tuple[str, ...]
    old_logprobs: Float[np.ndarray, " response"]
    masks: dict[str, Bool[np.ndarray, " response"]]
    advantages: dict[str, float]

    def __len__(self) -> int:
        return len(self.sample.prompt_token_ids) + len(self.sample.response_token_ids)


def training_samples(
    groups: list[pb.ScoredGroup], components: list[ComponentConfig], epsilon: float
) -> list[TrainingSample]:
    """All sequences of the groups, each rollout followed by its re-query where it has one."""
    samples = []
    for group in groups:
        advantages = {c.name: _advantages(c, group, epsilon) for c in components}
        for index, scored in enumerate(group.rollouts):
            own = {name: float(values[index]) for name, values in advantages.items()}
            samples.append(_answer(scored, components, own))
            if scored.HasField("requery"):
                samples.append(_requery(scored, components, own))
    return samples


def _advantages(component: ComponentConfig, group: pb.ScoredGroup, epsilon: float) -> list[float]:
    rewards = torch.tensor([[component_reward(component, r) for r in group.rollouts]], dtype=torch.float64)
    advantages: list[float] = group_advantages(rewards, component.advantage, epsilon)[0].tolist()
    return advantages


def component_reward(component: ComponentConfig, scored: pb.ScoredRollout) -> float:
    """The component's reward: named rewards times their factors.

    Raises:
        KeyError: a reward of this name was not given.
    """
    return sum(factor * scored.rewards[name] for name, factor in component.reward.items())


def token_sets(scored: pb.ScoredRollout) -> dict[str, Bool[np.ndarray, " response"]]:
    """The answering rollout's token sets: `description` is its block with tags, `reasoning` all other tokens.

    Every response token is in exactly one of the two; a response without a description block is all reasoning.
    """
    length = len(scored.rollout.sample.response_token_ids)
    description = np.zeros(length, dtype=bool)
    if scored.HasField("description"):
        description[scored.description.start : scored.description.end] = True
    return {"response": np.ones(length, dtype=bool), "description": description, "reasoning": ~description}


def _answer(
    scored: pb.ScoredRollout, components: list[ComponentConfig], advantages: dict[str, float]
) -> TrainingSample:
    sets = token_sets(scored)
    none = np.zeros(len(scored.rollout.sample.response_token_ids), dtype=bool)
    masks = {
        c.name: np.logical_or.reduce([sets[tokens] for tokens in c.tokens if tokens in sets] or [none])
        for c in components
    }
    images = tuple(ref.sha256 for ref in scored.rollout.prompt.images)
    return _sample(scored.rollout.sample, images, masks, advantages)


def _requery(
    scored: pb.ScoredRollout, components: list[ComponentConfig], advantages: dict[str, float]
) -> TrainingSample:
    length = len(scored.requery.sample.response_token_ids)
    masks = {c.name: np.full(length, "requery" in c.tokens) for c in components}
    return _sample(scored.requery.sample, (), masks, advantages)


def _sample(
    sample: pb.Sample,
    images: tuple[str, ...],
    masks: dict[str, Bool[np.ndarray, " response"]],
    advantages: dict[str, float],
) -> TrainingSample:
    return TrainingSample(sample, images, np.asarray(sample.logprobs, dtype=np.float32), masks, advantages)
