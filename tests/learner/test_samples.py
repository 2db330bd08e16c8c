"""Which tokens each component trains, and with which advantage."""

import numpy as np
import pytest

from learner.samples import token_sets, training_samples
from vision_sr1.config import load_config
from vision_sr1.v1 import pipeline_pb2 as pb

COMPONENTS = load_config(None, environment={}).config.learner.components


def scored(accuracy: float, visual: float, *, description: tuple[int, int] | None = (0, 4)) -> pb.ScoredRollout:
    sample = pb.Sample(prompt_token_ids=[1, 2, 3], response_token_ids=range(10, 20), logprobs=[-1.0] * 10)
    result = pb.ScoredRollout(
        rollout=pb.Rollout(sample=sample, prompt=pb.Prompt(images=[pb.ImageRef(sha256="aa")])),
        rewards={"format": 1.0, "accuracy": accuracy, "visual": visual},
    )
    if description:
        result.description.CopyFrom(pb.TokenSpan(start=description[0], end=description[1]))
        result.requery.sample.CopyFrom(
            pb.Sample(prompt_token_ids=[4], response_token_ids=[5, 6], logprobs=[-0.5, -0.25])
        )
    return result


def group(*rollouts: pb.ScoredRollout) -> pb.ScoredGroup:
    return pb.ScoredGroup(id="0/0", rollouts=rollouts)


def test_each_component_trains_its_own_tokens():
    answer, requery = training_samples([group(scored(1, 0), scored(0, 1))], COMPONENTS, 1e-6)[:2]
    assert answer.masks["description"].tolist() == [True] * 4 + [False] * 6
    assert answer.masks["answer"].tolist() == [False] * 4 + [True] * 6
    assert not answer.masks["requery"].any()
    assert requery.masks["requery"].all()
    assert not requery.masks["answer"].any()
    assert not requery.masks["description"].any()
    assert requery.images == ()
    assert answer.images == ("aa",)
    assert requery.old_logprobs.tolist() == [-0.5, -0.25]


def test_each_reward_is_normalized_on_its_own():
    first, _, second, _ = training_samples([group(scored(1, 0), scored(0, 1))], COMPONENTS, 1e-6)
    assert first.advantages["answer"] == pytest.approx(-second.advantages["answer"])
    assert first.advantages["answer"] > 0 > first.advantages["description"]
    assert first.advantages["requery"] == first.advantages["description"]


def test_without_a_description_all_tokens_are_reasoning_and_there_is_no_requery():
    samples = training_samples([group(scored(1, 0, description=None), scored(0, 0))], COMPONENTS, 1e-6)
    assert len(samples) == 3
    assert samples[0].masks["answer"].all()


def test_description_and_reasoning_share_no_token_and_leave_none_out():
    sets = token_sets(scored(1, 1, description=(2, 7)))
    assert np.array_equal(sets["description"] ^ sets["reasoning"], sets["response"])
