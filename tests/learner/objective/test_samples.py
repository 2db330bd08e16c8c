"""Which tokens each component trains, and with which advantage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.objective.samples import TrainingSample, group_has_signal, to_compute, training_samples
from vision_sr1.config import LearnerConfig, load_config
from vision_sr1.credit.assignment import token_sets
from vision_sr1.prompting.response import TokenPlaces, parse_response
from vision_sr1.v1 import pipeline_pb2 as pb

SUM = "{name: sum, reward: {accuracy: 1, visual: 1}, tokens: [response]}"


def settings(*overrides: str) -> LearnerConfig:
    return load_config(None, list(overrides), environment={}).config.learner


def samples_of(*groups: pb.ScoredGroup, overrides: tuple[str, ...] = (), version: int = 5) -> list[TrainingSample]:
    return [sample for group in training_samples(list(groups), settings(*overrides), version) for sample in group]


def scored(
    accuracy: float,
    visual: float,
    *,
    description: tuple[int, int] | None = (0, 4),
    versions: tuple[tuple[int, int, int], ...] = ((5, 0, 10),),
    finish: str = "stop",
) -> pb.ScoredRollout:
    sample = pb.Sample(
        prompt_token_ids=[1, 2, 3],
        response_token_ids=range(10, 20),
        logprobs=[-1.0] * 10,
        versions=[pb.VersionSpan(policy_version=v, start=start, end=end) for v, start, end in versions],
        finish_reason=finish,
    )
    result = pb.ScoredRollout(
        rollout=pb.Rollout(sample=sample, prompt=pb.Prompt(images=[pb.ImageRef(sha256="aa")])),
        rewards={"format": 1.0, "accuracy": accuracy, "visual": visual},
    )
    if description:
        result.description.CopyFrom(pb.TokenSpan(start=description[0], end=description[1]))
        result.requeries.add(rewards={"visual": visual}).sample.CopyFrom(
            pb.Sample(prompt_token_ids=[4], response_token_ids=[5, 6], logprobs=[-0.5, -0.25])
        )
    return result


def group(*rollouts: pb.ScoredRollout) -> pb.ScoredGroup:
    return pb.ScoredGroup(id="0/0", rollouts=rollouts)


def test_each_component_trains_its_own_tokens():
    answer, requery = samples_of(group(scored(1, 0), scored(0, 1)))[:2]
    assert answer.masks["description"].tolist() == [True] * 4 + [False] * 6
    assert answer.masks["answer"].tolist() == [False] * 4 + [True] * 6
    assert not answer.masks["requery"].any()
    assert requery.masks["requery"].all()
    assert not requery.masks["answer"].any()
    assert not requery.masks["description"].any()
    assert requery.images == ()
    assert answer.images == ("aa",)
    assert requery.behaviour_logprobs.tolist() == [-0.5, -0.25]


def test_each_reward_is_normalized_on_its_own():
    first, _, second, _ = samples_of(group(scored(1, 0), scored(0, 1)))
    assert first.advantages["answer"] == pytest.approx(-second.advantages["answer"])
    assert first.advantages["answer"] > 0 > first.advantages["description"]
    assert first.advantages["requery"] == first.advantages["description"]


def test_without_a_description_all_tokens_are_reasoning_and_there_is_no_requery():
    samples = samples_of(group(scored(1, 0, description=None), scored(0, 0)))
    assert len(samples) == 3
    assert samples[0].masks["answer"].all()


def test_description_and_reasoning_share_no_token_and_leave_none_out():
    sets = token_sets(scored(1, 1, description=(2, 7)))
    assert np.array_equal(sets["description"] ^ sets["reasoning"], sets["response"])


@given(
    st.lists(st.sampled_from(["<description>", "</description>", "<think>", "</think>", "\\boxed{", "}", " a", "<"])),
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
)
def test_masks_partition_any_response(words: list[str], cuts: list[int]):
    """With missing, repeated, nested or unclosed tags, and tokens that cut through them anywhere."""
    text = "".join(words).encode()
    token_bytes: list[bytes] = []
    position = 0
    while position < len(text):
        size = cuts[len(token_bytes) % len(cuts)]
        token_bytes.append(text[position : position + size])
        position += size
    result = pb.ScoredRollout(rollout=pb.Rollout(sample=pb.Sample(response_token_ids=range(len(token_bytes)))))
    parsed = parse_response(text)
    if parsed.description_span:
        start, end = TokenPlaces(token_bytes).span(parsed.description_span)
        result.description.CopyFrom(pb.TokenSpan(start=start, end=end))
    sets = token_sets(result)
    assert np.array_equal(sets["description"] ^ sets["reasoning"], sets["response"])
    assert sets["response"].all()
    if parsed.description_span:
        block = b"".join(piece for piece, inside in zip(token_bytes, sets["description"], strict=True) if inside)
        assert text[slice(*parsed.description_span)] in block


def test_staleness_is_counted_token_by_token_and_tokens_beyond_the_bound_are_left_out():
    stale = group(scored(1, 0, versions=((3, 0, 2), (4, 2, 6), (5, 6, 10))), scored(0, 1))
    first = samples_of(stale, overrides=("learner.max_staleness=1",))[0]
    assert first.staleness.tolist() == [2, 2, 1, 1, 1, 1, 0, 0, 0, 0]
    assert first.masks["description"].tolist() == [False, False, True, True] + [False] * 6
    kept = samples_of(stale, overrides=("learner.max_staleness=1", "learner.off_policy.stale_token_weight=0.5"))[0]
    assert kept.masks["description"].tolist() == [True] * 4 + [False] * 6


def test_a_cut_off_sequence_is_masked_where_asked():
    cut = group(scored(1, 0, finish="length"), scored(0, 1))
    assert samples_of(cut)[0].masks["answer"].any()
    masked = samples_of(cut, overrides=("learner.groups.mask_truncated=true",))
    assert not any(mask.any() for mask in masked[0].masks.values())
    assert masked[2].masks["answer"].any()
    assert masked[0].advantages["answer"] > 0, "its reward still counts for the others' baseline"


def test_what_is_not_trained_is_not_computed():
    answered = group(scored(1, 0, finish="length"), scored(0, 1))
    assert len(to_compute(samples_of(answered))) == 4
    computed = to_compute(samples_of(answered, overrides=("learner.preset=see_think",)))
    assert [bool(sample.images) for sample in computed] == [True, True], "no re-queries"
    cut_off = ("learner.preset=vision_sr1_channels", "learner.groups.mask_truncated=true")
    (only,) = to_compute(samples_of(answered, overrides=cut_off))
    assert only.sample == answered.rollouts[1].rollout.sample
    (shortest,) = to_compute(samples_of(group(scored(1, 0, finish="length")), overrides=cut_off))
    assert shortest.sample == answered.rollouts[0].requeries[0].sample, "a step has one sequence at least"


def test_a_group_has_a_signal_where_any_component_has_one():
    assert not group_has_signal(group(scored(1, 1), scored(1, 1)), settings())
    assert not group_has_signal(group(), settings())
    assert group_has_signal(group(scored(1, 1), scored(1, 0)), settings())
    assert not group_has_signal(group(scored(1, 1), scored(1, 0)), settings("learner.preset=see_think"))
    blind = group(scored(1, 0), scored(0, 1))
    assert not group_has_signal(
        blind, settings("learner.preset=vision_sr1_channels", "learner.components=[" + SUM + "]")
    )
    assert group_has_signal(blind, settings("learner.preset=vision_sr1_channels"))


def test_a_missing_reward_trains_none_of_its_components_tokens_and_changes_nobody_elses_advantage():
    blank = scored(1, 0)
    del blank.rewards["accuracy"]
    blank.missing.append("accuracy")
    without = samples_of(group(scored(1, 0), scored(0, 1)))
    samples = samples_of(group(scored(1, 0), blank, scored(0, 1)))
    assert not samples[2].masks["answer"].any()
    assert samples[2].masks["description"].any()
    assert [samples[place].advantages["answer"] for place in (0, 4)] == [
        without[place].advantages["answer"] for place in (0, 2)
    ]
    assert group_has_signal(group(scored(1, 0), blank, scored(0, 1)), settings("learner.preset=see_think"))
    assert not group_has_signal(group(scored(1, 0), blank), settings("learner.preset=see_think"))


def test_each_of_several_re_queries_is_trained_by_what_it_was_given_itself():
    """The reward of the description is their mean; a response without one counts as much as one with."""
    twice, silent = scored(1, 0.5), scored(0, 0, description=None)
    twice.requeries[0].rewards["visual"] = 1.0
    twice.requeries.add(sample=twice.requeries[0].sample, rewards={"visual": 0.0})
    answer, right, wrong, blind = samples_of(group(twice, silent))
    values = np.array([1.0, 0.0, 0.0, 0.0])
    expected = (values - values.mean()) / (values.std(ddof=1) + 1e-6)
    assert right.advantages["requery"] == pytest.approx(expected[0])
    assert wrong.advantages["requery"] == pytest.approx(expected[1])
    assert right.masks["requery"].all()
    assert wrong.masks["requery"].all()
    assert answer.advantages["description"] == pytest.approx(-blind.advantages["description"])


def test_re_queries_without_rewards_of_their_own_have_those_of_their_rollout():
    """As services of schema 1 wrote them."""
    groups = [group(scored(1, 0), scored(0, 1)) for _ in range(2)]
    for rollout in groups[1].rollouts:
        rollout.requeries[0].ClearField("rewards")
    new, old = (samples_of(one) for one in groups)
    assert [s.advantages for s in old] == [s.advantages for s in new]


def test_one_of_two_re_queries_that_could_not_be_graded_is_not_trained():
    half = scored(1, 1)
    half.requeries.add(sample=half.requeries[0].sample, rewards={"requery_format": 1.0})
    samples = samples_of(group(half, scored(0, 0)))
    assert samples[1].masks["requery"].all()
    assert not samples[2].masks["requery"].any()


def test_text_alone_is_trained_by_its_answer_under_every_objective():
    """What a description would be worth is 0 there, and no component is left without its other rewards."""
    rollouts = [scored(accuracy, 0, description=None) for accuracy in (1, 0)]
    for rollout in rollouts:
        del rollout.rewards["visual"]
        del rollout.rollout.prompt.images[:]
    objective = ("learner.preset=null", f"learner.components=[{SUM}]")
    for overrides in ((), objective, ("learner.preset=gdpo",), ("learner.preset=vision_sr1_eq7",)):
        right, wrong = samples_of(group(*rollouts), overrides=overrides)
        name = next(name for name in right.advantages if name in ("answer", "sum", "all", "response"))
        assert right.advantages[name] > 0 > wrong.advantages[name]
        assert right.masks[name].any()
        others = {other: value for other, value in right.advantages.items() if other != name}
        assert set(others.values()) <= {0.0}


def requeried(*rewards: tuple[int, float], visual: float) -> pb.ScoredRollout:
    """A rollout with re-queries, each of a question and right or wrong."""
    result = scored(1, visual)
    result.rewards["requery_format"] = 1.0
    del result.requeries[:]
    for question, right in rewards:
        sample = pb.Sample(prompt_token_ids=[4 + question], response_token_ids=[5, 6], logprobs=[-0.5, -0.25])
        given = {"visual": right, "requery_format": 1.0}
        result.requeries.add(sample=sample, question=question, rewards=given)
    return result


def test_re_queries_on_several_questions_are_compared_question_by_question():
    """That everyone answers one question and nobody another trains no re-query; the description has their mean."""
    rollouts = [
        requeried((0, 1), (1, 1), (2, 0), visual=2 / 3),
        requeried((0, 0), (1, 1), (2, 0), visual=1 / 3),
        scored(0, 0, description=None),
    ]
    samples = samples_of(group(*rollouts))
    answers, requeries = [samples[0], samples[4], samples[8]], [samples[1:4], samples[5:8]]

    def normalized(*values: float) -> list[float]:
        given = np.array(values)
        return list((given - given.mean()) / (given.std(ddof=1) + 1e-6))

    assert [s.advantages["description"] for s in answers] == pytest.approx(normalized(2 / 3, 1 / 3, 0))
    own, easy, hard = normalized(1, 0, 0), normalized(1, 1, 0), [0.0, 0.0, 0.0]  # the last has no description
    for place, of_rollout in enumerate(requeries):
        expected = [own[place], easy[place], hard[place]]
        assert [s.advantages["requery"] for s in of_rollout] == pytest.approx(expected)
        assert all(s.masks["requery"].all() for s in of_rollout)


def test_an_observer_is_rewarded_by_the_mean_of_its_solvers_and_each_solver_beside_those_of_its_description():
    preset = ("learner.preset=observer_solver",)
    half, whole = requeried((0, 1), (0, 0), (0, 0), (0, 1), visual=0.5), requeried(*[(0, 1)] * 4, visual=1.0)
    half.requeries[3].rewards["requery_format"] = 0.0
    samples = samples_of(group(half, whole), overrides=preset)
    observers, solvers = [samples[0], samples[5]], [samples[1:5], samples[6:]]
    apart = 0.25 / (0.125**0.5 + 1e-6)  # 0.5 and 1: deviation from their mean over the unbiased deviation
    assert [s.advantages["observer"] for s in observers] == pytest.approx([-apart, apart])
    rewards = np.array([0.9 + 0.1, 0.1, 0.1, 0.9])
    expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
    assert [s.advantages["solver"] for s in solvers[0]] == pytest.approx(expected)
    assert [s.advantages["solver"] for s in solvers[1]] == [0.0] * 4, "a good description is not the solvers' merit"
    for observer in observers:
        assert observer.masks["observer"].tolist() == [True] * 4 + [False] * 6
        assert not observer.masks["solver"].any()
    assert all(s.masks["solver"].all() and not s.masks["observer"].any() for of in solvers for s in of)


def test_solvers_that_differ_are_a_signal_where_descriptions_are_equally_good():
    halves = group(*[requeried((0, 1), (0, 0), visual=0.5) for _ in range(2)])
    assert group_has_signal(halves, settings("learner.preset=observer_solver"))
    wholes = group(*[requeried((0, 1), (0, 1), visual=1.0) for _ in range(2)])
    assert not group_has_signal(wholes, settings("learner.preset=observer_solver"))
