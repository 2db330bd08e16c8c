"""Optimizer steps on made groups, by one rank."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from structlog.testing import capture_logs

from learner.checkpoints.hf_folder import write_export
from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.gather import full_parameters
from learner.metrics.batch_scalars import batch_scalars
from learner.metrics.reference import undeclared
from learner.model.masking import Mask
from learner.model.packing import Pack, pack
from learner.model.policy import choose_trainable, load_policy, rope_positions, token_logprobs
from learner.model.reference import FrozenCopy
from learner.model.sequences import SequenceBuilder
from learner.objective.batch_statistics import BatchStatistics
from learner.objective.samples import training_samples
from learner.objective.update import PolicyUpdate
from tests.conftest import TINY
from tests.learner.made_groups import make_groups
from vision_sr1.config import Config, load_config
from vision_sr1.v1 import pipeline_pb2 as pb

Weights = dict[str, torch.Tensor]


class Learner:
    """A policy, its reference and groups to learn from."""

    def __init__(self, model: Path, conversations: Path, device: torch.device, *overrides: str) -> None:
        sizes = ["learner.prompts_per_batch=4", "learner.prompts_per_step=2", "learner.zero_stage=1"]
        options = [f"model.path={model}", *TINY, *sizes, "learner.learning_rate=1e-3", *overrides]
        self.config: Config = load_config(None, options, environment={}).config
        self.device = device
        self.policy, frozen = (load_policy(self.config, str(model), forbidden_token_ids=[]) for _ in range(2))
        learner = self.config.learner
        choose_trainable(self.policy, learner.lora, freeze_vision=learner.freeze_vision)
        learning_rate = self.config.learner.learning_rate
        self.engine = build_engine(self.config, self.policy, learning_rate=learning_rate, weight_decay=0.0)
        self.reference = FrozenCopy(self.config, frozen, device, is_initial=True)
        self.builder = SequenceBuilder(self.config.model)
        self.update = PolicyUpdate(self.config, self.engine, self.reference, self.builder, device)
        self.groups, self._images = make_groups(self.config, conversations, prompts=4, group_size=4)

    def learn(self, groups: list[pb.ScoredGroup] | None = None) -> dict[str, float]:
        return self.update.learn(self.groups if groups is None else groups, 0, lambda _: self._images).scalars

    def pack_lengths(self) -> list[int]:
        """Filled from now on with the tokens of every pack that the policy computes."""
        lengths: list[int] = []
        model: Any = self.policy.model
        model.language_model.register_forward_hook(
            lambda *arguments: lengths.append(arguments[-1].last_hidden_state.shape[1])
        )
        return lengths

    def weights(self) -> Weights:
        return {name: value.detach().clone() for name, value in full_parameters(self.policy)}

    def sample_on_policy(self) -> None:
        """Replaces the groups' behaviour log-probabilities by what the policy now says."""
        for group in self.groups:
            for scored in group.rollouts:
                samples = [(scored.rollout.sample, True), *((requery.sample, False) for requery in scored.requeries)]
                for sample, images in samples:
                    if sample.response_token_ids:
                        sample.ClearField("logprobs")
                        sample.logprobs.extend(self.logprobs(sample, scored.rollout.prompt.images if images else ()))

    def packed(self, sample: pb.Sample, images: Any, mask: Mask | None = None) -> Pack:
        prepared = self.builder.images([self._images[ref.sha256] for ref in images], mask)
        sequence = self.builder.from_tokens(list(sample.prompt_token_ids), list(sample.response_token_ids), prepared)
        return pack([sequence], self.builder.filler(), lambda s: rope_positions(self.policy, s))

    def logprobs(self, sample: pb.Sample, images: Any, mask: Mask | None = None) -> list[float]:
        with torch.no_grad():
            return token_logprobs(self.policy, self.packed(sample, images, mask), self.device).tolist()


@pytest.fixture
def learner(tiny_model: Path, shapes: dict[str, Path], single_rank: torch.device):
    def make(*overrides: str) -> Learner:
        return Learner(tiny_model, shapes["cold_start"], single_rank, *overrides)

    return make


def changed(before: Weights, after: Weights) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_batch_changes_the_weights_and_reports_finite_scalars(learner):
    trained = learner()
    trained.sample_on_policy()
    before = trained.weights()
    scalars = trained.learn()
    assert changed(before, trained.weights()) == before.keys()
    assert all(math.isfinite(value) for value in scalars.values()), scalars
    assert scalars["token_staleness/0"] == 1.0
    assert scalars["ratio/p01"] < scalars["ratio/p50"] < scalars["ratio/p99"]
    assert {"kl/answer", "clip_fraction/description", "loss/requery"} <= scalars.keys()


def test_a_batch_without_rollouts_teaches_nothing(learner):
    idle = learner()
    before = idle.weights()
    assert idle.learn([pb.ScoredGroup(id="0/0"), pb.ScoredGroup(id="0/1")]) == {}
    assert changed(before, idle.weights()) == set()


def test_degenerate_groups_give_no_nan(learner):
    """One rollout alone, equal rewards everywhere, everything cut off, nothing left of a component's tokens."""
    poor = learner("learner.groups.mask_truncated=true")
    lonely, equal, cut, silent = poor.groups
    del lonely.rollouts[1:]
    for scored in equal.rollouts:
        for name in scored.rewards:
            scored.rewards[name] = 1.0
    for scored in cut.rollouts:
        scored.rollout.sample.finish_reason = "length"
    for scored in silent.rollouts:
        scored.ClearField("description")
        scored.ClearField("requeries")
        scored.rollout.sample.ClearField("response_token_ids")
        scored.rollout.sample.ClearField("logprobs")
        scored.rollout.sample.ClearField("versions")
    scalars = poor.learn()
    assert all(math.isfinite(value) for value in scalars.values()), scalars
    assert all(value.isfinite().all() for value in poor.weights().values())


@pytest.mark.slow
def test_the_proximal_policy_makes_no_difference_where_the_actors_agree_with_the_trainer(learner):
    results = []
    for recompute in ("false", "true"):
        agreeing = learner(f"learner.off_policy.recompute_proximal={recompute}")
        agreeing.sample_on_policy()
        before = agreeing.weights()
        scalars = agreeing.learn()
        assert abs(scalars["mismatch_kl/engine_trainer"]) < 1e-9
        assert scalars["off_policy/truncated"] == 0.0
        results.append(agreeing.weights())
    for name, value in results[0].items():
        assert float((results[1][name] - value).norm()) <= 1e-2 * float((value - before[name]).norm()), name


def test_importance_weights_correct_for_actors_that_disagree(learner):
    disagreeing = learner("learner.off_policy.recompute_proximal=true", "learner.prompts_per_step=4")
    disagreeing.sample_on_policy()
    for group in disagreeing.groups:
        for scored in group.rollouts:
            likely = [value - 1.0 for value in scored.rollout.sample.logprobs]  # sampled as if e times less likely
            scored.rollout.sample.ClearField("logprobs")
            scored.rollout.sample.logprobs.extend(likely)
    scalars = disagreeing.learn()
    answers = sum(len(s.rollout.sample.response_token_ids) for g in disagreeing.groups for s in g.rollouts)
    requeries = sum(
        len(r.sample.response_token_ids) for g in disagreeing.groups for s in g.rollouts for r in s.requeries
    )
    assert scalars["off_policy/truncated"] == pytest.approx(answers / (answers + requeries))
    assert scalars["mismatch_kl/engine_trainer"] > 0.1
    assert scalars["ratio/p99"] == pytest.approx(1.0, abs=1e-3), "ratios are to the trainer's own, before the batch"


def test_how_engine_and_trainer_differ_is_said_only_where_tokens_tell_it(learner):
    fresh = learner().learn()
    assert "mismatch_kl/engine_trainer" in fresh
    assert "off_policy/stale_kl" not in fresh
    late = learner("learner.max_staleness=1")
    for group in late.groups:
        for scored in group.rollouts:
            for sample in (scored.rollout.sample, *(requery.sample for requery in scored.requeries)):
                for span in sample.versions:
                    span.policy_version -= 1
    stale = late.learn()
    assert "mismatch_kl/engine_trainer" not in stale
    assert "off_policy/stale_kl" in stale


def test_stale_tokens_count_less_with_each_version_beyond_the_bound(learner):
    """At a weight of one half, tokens two versions beyond the bound give a quarter of the gradient."""
    norms = []
    for version in (0, -2):
        stale = learner(
            "learner.off_policy.stale_token_weight=0.5",
            "learner.prompts_per_step=4",
            "learner.preset=see_think",
            "learner.components=[{name: answer, reward: {accuracy: 1}, tokens: [response], kl_coef: 0}]",
        )
        for group in stale.groups:
            for scored in group.rollouts:
                for span in scored.rollout.sample.versions:
                    span.policy_version = version
        scalars = stale.learn()
        norms.append(scalars["grad_norm/mean"])
    assert scalars["token_staleness/beyond"] > 0
    assert norms[1] == pytest.approx(norms[0] / 4, rel=1e-4)


def test_a_batch_that_is_interrupted_between_steps_is_finished_as_if_it_had_not_been(learner):
    whole, halved = learner(), learner()
    whole.learn()
    first = halved.update.learn(halved.groups, 0, lambda _: halved._images, interrupted=lambda: True)
    assert (first.steps, first.is_whole) == (1, False)
    second = halved.update.learn(halved.groups, 0, lambda _: halved._images, first_step=1)
    assert (second.steps, second.is_whole) == (2, True)
    assert all(math.isfinite(value) for value in second.scalars.values())
    assert changed(whole.weights(), halved.weights()) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["zero_stage=1", "zero_stage=3", "reference.placement=sharded", "reference.placement=cpu"]
)
def test_the_reference_is_the_first_policy_until_it_is_refreshed(place: str, learner, tmp_path: Path):
    trained = learner(f"learner.{place}")
    trained.sample_on_policy()
    assert trained.learn()["kl/answer"] >= 0.0
    moved = trained.learn()["kl/answer"]
    assert moved > 1e-4
    assert trained.reference.snapshot(lambda tensor: tensor) is None, "the initial policy is on disk already"
    trained.reference.refresh(trained.policy)
    assert trained.learn()["kl/answer"] < moved / 2
    weights = trained.reference.snapshot(lambda tensor: tensor)
    write_export(trained.reference.model, trained.builder.processor, weights, tmp_path / "reference")
    saved = load_policy(trained.config, str(tmp_path / "reference"), forbidden_token_ids=[])
    kept = {name: value.clone() for name, value in full_parameters(trained.reference.model)}
    assert changed(kept, dict(saved.named_parameters())) == set()


def test_a_frozen_vision_tower_keeps_its_weights(learner):
    frozen = learner("learner.freeze_vision=true")
    before = frozen.weights()
    frozen.learn()
    assert changed(before, frozen.weights()) == {name for name in before if ".visual." not in name}


def test_bf16_weights_have_a_float32_master_that_remembers_small_steps(learner):
    halved = learner("model.dtype=bfloat16", "learner.learning_rate=1e-6")
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    parameter = dict(halved.policy.named_parameters())[name]
    before, master = parameter.detach().clone(), safe_get_full_fp32_param(parameter).clone()
    halved.learn()
    assert parameter.dtype == torch.bfloat16
    moved = (safe_get_full_fp32_param(parameter) - master).abs()
    assert master.dtype == torch.float32
    assert 0 < float(moved.max()) < 1e-5
    assert (parameter != before).float().mean() < 0.05, "steps this small mostly vanish in bfloat16"


def test_checkpointed_activations_are_recomputed_and_give_the_same_step(learner):
    steps = []
    for enabled in ("false", "true"):
        trained = learner(f"learner.gradient_checkpointing={enabled}", "learner.prompts_per_step=4")
        trained.learn()  # the first batch is preceded by a comparison
        calls: list[int] = []
        trained.policy.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_, c=calls: c.append(1))
        trained.learn()
        steps.append((len(calls), trained.weights()))
    (once, plain), (twice, recomputed) = steps
    assert twice == 2 * once
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-5, atol=1e-6)


def test_quantiles_are_those_of_all_ratios(single_rank: torch.device, learner):
    statistics = BatchStatistics(learner().config.learner, single_rank)
    log_ratios = torch.linspace(-0.5, 0.5, 10_001)
    for part in log_ratios[torch.randperm(10_001)].split(1000):
        statistics.ratios(part)
    statistics.corrected(*(torch.zeros(4, dtype=torch.bool),) * 2)
    for name in ("answer", "description", "requery"):
        zero = torch.zeros(())
        statistics.component(name, zero, {"clipped": zero, "tokens": zero, "kl": zero})
    statistics.mismatch(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    scalars = statistics.scalars(steps=1)
    for name, share in (("p01", 0.01), ("p50", 0.5), ("p99", 0.99)):
        assert scalars[f"ratio/{name}"] == pytest.approx(float(log_ratios.quantile(share).exp()), rel=2e-3)


def broken(group: pb.ScoredGroup) -> None:
    """Makes the loss of its rollouts not finite: tokens sampled with a probability of next to nothing."""
    for scored in group.rollouts:
        tokens = len(scored.rollout.sample.logprobs)
        scored.rollout.sample.ClearField("logprobs")
        scored.rollout.sample.logprobs.extend([-1e30] * tokens)


@pytest.mark.parametrize(
    "option",
    [
        *(f"learner.zero_stage={stage}" for stage in range(3)),
        *(pytest.param(option, marks=pytest.mark.slow) for option in ("learner.zero_stage=3", "model.dtype=bfloat16")),
    ],
)
def test_a_step_whose_loss_is_not_finite_is_skipped_and_the_next_is_as_if_it_had_not_been(learner, option: str):
    undisturbed, disturbed = (learner("learner.max_staleness=1", option) for _ in range(2))
    healthy = [disturbed.groups[2], disturbed.groups[3]]
    broken(disturbed.groups[1])
    before = disturbed.weights()
    with capture_logs() as logs:
        result = disturbed.update.learn(disturbed.groups[:2], 0, lambda _: disturbed._images)
    assert result.skipped == (True,)
    assert (result.steps, result.is_whole) == (1, True)
    assert changed(before, disturbed.weights()) == set()
    assert [entry["event"] for entry in logs] == ["step_skipped"]
    assert result.scalars["optimizer/skipped_steps"] == 1.0
    assert "grad_norm/mean" not in result.scalars
    after = disturbed.update.learn(healthy, 1, lambda _: disturbed._images)
    alone = undisturbed.update.learn(undisturbed.groups[2:], 0, lambda _: undisturbed._images)
    assert after.skipped == alone.skipped == (False,)
    assert after.scalars["grad_norm/mean"] == pytest.approx(alone.scalars["grad_norm/mean"], rel=1e-6)
    assert changed(undisturbed.weights(), disturbed.weights()) == set()
    assert changed(before, disturbed.weights())


def test_every_scalar_is_declared_and_measures_what_it_says(learner):
    measured = learner("learner.off_policy.recompute_proximal=true", "learner.max_staleness=1")
    measured.sample_on_policy()
    measured.groups[0].rollouts[0].rollout.sample.finish_reason = "length"
    scalars = measured.learn() | batch_scalars(measured.groups, measured.config.learner)
    assert undeclared(scalars) == []
    vocabulary = measured.policy.get_output_embeddings().weight.shape[0]
    assert 0.0 < scalars["entropy/answer"] < math.log(vocabulary)
    assert scalars["approx_kl/answer"] > 0.0
    assert scalars["advantage_min/answer"] < 0 < scalars["advantage_std/answer"] < scalars["advantage_max/answer"]
    assert scalars["optimizer/learning_rate"] == pytest.approx(1e-3)
    assert scalars["grad_norm/max"] >= scalars["grad_norm/mean"] > 0
    assert scalars["responses/truncated"] == 1 / 16


def test_an_entropy_bonus_raises_the_entropy(learner):
    """With no other term, and its own gradient through the whole model."""
    c = "{name: answer, reward: {accuracy: 0.0}, tokens: [response], kl_coef: 0, entropy_coef: 1.0}"
    free = learner("learner.preset=see_think", f"learner.components=[{c}]", "learner.learning_rate=3e-4")
    assert free.learn()["entropy/answer"] < free.learn()["entropy/answer"]


def test_the_learning_rate_follows_its_schedule(learner):
    """Half of it is half the change of a parameter without decay, by Adam's first step."""
    schedule = ["learner.batches=4", "learner.schedule.name=linear", "learner.prompts_per_step=4"]
    schedule += ["learner.max_staleness=2"]
    moves = []
    for batch in (0, 2):
        scheduled = learner(*schedule)
        before = scheduled.weights()
        scalars = scheduled.update.learn(scheduled.groups, batch, lambda _, s=scheduled: s._images).scalars
        assert scalars["optimizer/learning_rate"] == pytest.approx(1e-3 * (1 - batch / 4))
        name = "model.language_model.norm.weight"
        moves.append(float((scheduled.weights()[name] - before[name]).norm()))
    assert moves[1] == pytest.approx(moves[0] / 2, rel=1e-2)


def test_tokens_out_of_the_corrections_bounds_are_not_trained_and_are_counted(learner):
    masked = learner(
        "learner.off_policy.recompute_proximal=true",
        "learner.off_policy.correction=icepop",
        "learner.prompts_per_step=4",
        "learner.preset=see_think",
        "learner.components=[{name: answer, reward: {accuracy: 1}, tokens: [response], kl_coef: 0}]",
    )
    masked.sample_on_policy()
    *unlikely, likely = masked.groups
    for group in unlikely:
        for scored in group.rollouts:
            logprobs = [value - 2.0 for value in scored.rollout.sample.logprobs]  # a ratio of 7.4, above 5
            scored.rollout.sample.ClearField("logprobs")
            scored.rollout.sample.logprobs.extend(logprobs)
    for scored in likely.rollouts:
        scored.rewards["accuracy"] = 1.0  # no advantages
    scalars = masked.learn()
    tokens = [sum(len(scored.rollout.sample.logprobs) for scored in group.rollouts) for group in masked.groups]
    assert scalars["off_policy/masked"] == pytest.approx(1 - tokens[-1] / sum(tokens))
    assert scalars["grad_norm/mean"] == 0.0


def test_every_sample_of_every_group_is_learned_from(learner):
    made = learner()
    samples = training_samples(made.groups, made.config.learner, 0)
    assert [len(group) for group in samples] == [
        len(group.rollouts) + sum(len(scored.requeries) for scored in group.rollouts) for group in made.groups
    ]


def test_sequences_that_are_not_trained_are_not_computed_and_the_step_is_the_same(learner):
    """Groups with re-queries, and without, under an objective that trains answers only."""
    options = ("learner.preset=vision_sr1_channels", "learner.max_staleness=1")
    whole, trained_only = learner(*options), learner(*options)
    found: list[tuple[int, Weights, dict[str, float]]] = []
    for made in (whole, trained_only):
        made.sample_on_policy()
        for group in made.groups:
            for scored in group.rollouts:
                for requery in scored.requeries:
                    requery.sample.ClearField("versions")
                    requery.sample.versions.add(policy_version=-1, start=0, end=1)
                if made is trained_only:
                    scored.ClearField("requeries")
        made.learn()  # preceded by a comparison
        lengths = made.pack_lengths()
        scalars = made.learn()
        found.append((sum(lengths), made.weights(), scalars))
    (tokens, weights, scalars), (least, others, without) = found
    assert tokens == least
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
    assert scalars["tokens/answer"] == without["tokens/answer"] > 0
    assert scalars["token_staleness/1"] > without["token_staleness/1"] == 0.0, "staleness is that of all tokens"


def test_prompts_are_computed_for_each_response_where_sharing_them_is_not_exact(learner):
    """With a tolerance that nothing meets; the step is the same."""
    shared, plain = learner(), learner()
    plain.update._rounding = -1.0
    packs: list[int] = []
    before = plain.weights()
    for trained in (shared, plain):
        trained.sample_on_policy()
        tokens = trained.pack_lengths()
        with capture_logs() as logs:
            trained.learn()
        packs.append(sum(tokens[2:]))  # after the comparison
        warned = [entry for entry in logs if entry["event"] == "prompt_sharing_disabled"]
        assert len(warned) == (trained is plain)
    assert packs[0] < 0.7 * packs[1]
    for name, value in plain.weights().items():
        assert float((shared.weights()[name] - value).norm()) <= 1e-2 * float((value - before[name]).norm()), name


ONE_STEP = ("learner.prompts_per_step=4", "learner.dependency.mask_ratio=0.5")
MEASURED = (*ONE_STEP, "learner.dependency.measure=true")


def test_visual_dependency_is_that_of_each_answer_alone(learner):
    """Masked answers of a group in one pack, re-queries left out, against sequences one by one."""
    measured = learner(*MEASURED)
    measured.sample_on_policy()
    mask = Mask(0.5, f"{measured.config.run.seed}/0")
    of_part: dict[str, list[float]] = {part: [] for part in ("response", "description", "think", "answer")}
    for group in measured.groups:
        for scored in group.rollouts:
            sample, images = scored.rollout.sample, scored.rollout.prompt.images
            seen, masked = measured.logprobs(sample, images), measured.logprobs(sample, images, mask)
            values = [min(math.exp(m - s) - 1 - (m - s), 10.0) for s, m in zip(seen, masked, strict=True)]
            of_part["response"] += values
            for part in ("description", "think", "answer"):
                if scored.HasField(part):
                    of_part[part] += values[getattr(scored, part).start : getattr(scored, part).end]
    scalars = measured.learn()
    assert undeclared(scalars) == []
    for part, values in of_part.items():
        assert scalars[f"dependency/{part}"] == pytest.approx(sum(values) / len(values), rel=1e-3)
    assert scalars["dependency/response"] > 1e-3
    assert "dependency/loss" not in scalars


def test_a_policy_that_ignores_images_has_no_visual_dependency(learner):
    blind = learner(*MEASURED)
    last = blind.policy.model.visual.merger.mlp[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    assert blind.learn()["dependency/response"] < 1e-9


def test_measuring_visual_dependency_does_not_change_the_step(learner):
    plain, measured = learner("learner.prompts_per_step=4"), learner(*MEASURED)
    assert "dependency/response" not in plain.learn()
    measured.learn()
    assert changed(plain.weights(), measured.weights()) == set()


def test_answers_to_prompts_without_images_are_trained_whole(learner):
    """Re-queries have none: their component learns the same whatever share of the answers' tokens is trained."""
    requery = "[{name: requery, reward: {visual: 1}, tokens: [requery], kl_coef: 0}]"
    objective = (*ONE_STEP, f"learner.components={requery}")
    plain, weighted = learner(*objective), learner(*objective, "learner.dependency.token_share=0.3")
    norms = [trained.learn()["grad_norm/mean"] for trained in (plain, weighted)]
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)


def test_a_share_of_the_tokens_gets_the_whole_weight_of_its_answer(learner):
    """Of the gradient of the loss by log-probabilities, which the weights multiply at the old policy."""
    answer = "[{name: answer, reward: {accuracy: 1}, tokens: [response], kl_coef: 0}]"
    found: list[torch.Tensor] = []
    for share in ("null", "0.4"):
        trained = learner(*ONE_STEP, f"learner.components={answer}", f"learner.dependency.token_share={share}")
        trained.sample_on_policy()
        head = trained.policy.get_output_embeddings()
        gradients: list[torch.Tensor] = []

        def watch(*arguments: Any, gradients: list[torch.Tensor] = gradients) -> None:
            if arguments[-1][0].requires_grad:
                arguments[-1][0].register_hook(gradients.append)

        head.register_forward_hook(watch)
        trained.learn()
        found.append(torch.cat(gradients))
    plain, weighted = found
    sizes = [len(s.rollout.sample.response_token_ids) for g in trained.groups for s in g.rollouts]
    kept, learned = (float((values.abs() > 0).sum()) for values in (weighted, plain))
    assert kept / learned == pytest.approx(0.4, abs=0.03)
    ratio = (weighted / plain)[plain.abs() > 0]
    weights = {round(float(r), 2) for r in ratio if r}
    assert len(weights) > 3
    assert weights <= {round(n / round(0.4 * n), 2) for n in sizes}


BONUS = (
    *ONE_STEP,
    "learner.components=[{name: answer, reward: {accuracy: 0.0}, tokens: [response], kl_coef: 0}]",
    "learner.dependency.kl_bonus=0.5",
    "learner.max_grad_norm=1e9",
)


def test_the_gradient_of_a_bonus_goes_through_both_sides(learner):
    """Against torch's own, of the formula over answers one by one."""
    packed, plain = learner(*BONUS), learner(*BONUS)
    packed.learn()
    mask, bounded = Mask(0.5, f"{plain.config.run.seed}/0"), []
    for group in plain.groups:
        for scored in group.rollouts:
            sample, images = scored.rollout.sample, scored.rollout.prompt.images
            packs = (plain.packed(sample, images, one) for one in (None, mask))
            seen, masked = (token_logprobs(plain.policy, one, plain.device) for one in packs)
            bounded.append(((masked - seen).exp() - 1 - (masked - seen)).clamp(max=1.0))
    (-0.5 * torch.cat(bounded).mean()).backward()
    expected = {name: p.grad for name, p in plain.policy.named_parameters() if p.grad is not None}
    scale = max(float(gradient.norm()) for gradient in expected.values())
    for name, parameter in packed.policy.named_parameters():
        found = safe_get_full_optimizer_state(parameter, "exp_avg") / 0.1
        assert float((found - expected[name]).norm()) <= 1e-4 * max(float(expected[name].norm()), 0.01 * scale), name


@pytest.mark.parametrize(
    "option",
    ["learner.lora.rank=4", *(pytest.param(f"learner.zero_stage={s}", marks=pytest.mark.slow) for s in (0, 3))],
)
def test_a_bonus_raises_visual_dependency(learner, option: str):
    """With no other term, on the same answers; of a token as far as its cap."""
    looking = learner(*BONUS, "learner.learning_rate=3e-4", option)
    looking.sample_on_policy()
    first, second = looking.learn(), looking.learn()
    assert undeclared(first) == []
    assert second["dependency/loss"] < first["dependency/loss"] < 0
    assert -first["dependency/loss"] < first["dependency/response"]
    assert 0 < first["dependency/capped"] < 0.5
