"""The section `learner`: objective, steps, supervised fine-tuning, adapters, reference, groups and publishing."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vision_sr1.config.section import HomePath, Positive, Seconds, Section, SettingError
from vision_sr1.rewards.names import OF_REQUERIES, VISUAL_OWN

TokenSet = Literal["response", "description", "reasoning", "requery"]
AdvantageNormalizer = Literal["group", "group_mean", "leave_one_out", "gdpo"]
Placement = Literal["policy", "sharded", "cpu"]
KlEstimator = Literal["k1", "k2", "k3", "low_var_kl"]
Correction = Literal["truncated", "masked_token", "masked_sequence", "icepop"]


class ComponentConfig(Section):
    """One component of the objective: a reward, the tokens it trains, and its own clipping and KL."""

    name: str = Field(description="Label in metrics.")
    reward: dict[str, float] = Field(
        min_length=1, description="Rewards by name with their factors; the component uses the weighted sum."
    )
    tokens: list[TokenSet] = Field(min_length=1, description="Token sets that the component trains.")
    weight: float = Field(1.0, ge=0, description="Weight of the component in the loss (lambda).")
    advantage: AdvantageNormalizer = Field(
        "group",
        description="Advantage estimator over the group. group: (r - mean) / std (GRPO). group_mean: r - mean (Dr. "
        "GRPO). leave_one_out: r minus the mean of the others (RLOO). gdpo: every reward normalized in "
        "its group, summed by factors, divided by the std over the batch.",
    )
    group: Literal["prompt", "description"] = Field(
        "prompt",
        description="The group that an advantage is relative to. prompt: all answers to the prompt; of re-queries, all "
        "that ask its descriptions the same question. description: the re-query's samples of one description and "
        "question; for components that train `requery` alone, with reward.requery.samples of 2 or more.",
    )
    ratio: Literal["token", "sequence"] = Field(
        "token", description="Importance ratio per token, or its geometric mean over the sequence (sequence: GSPO)."
    )
    clip_ratio_low: float = Field(0.2, gt=0, lt=1, description="Ratios are clipped below at 1 - this value.")
    clip_ratio_high: float = Field(0.3, gt=0, description="Ratios are clipped above at 1 + this value.")
    clip_ratio_dual: float | None = Field(
        3.0,
        gt=1,
        description="Dual-clip constant c: for A < 0 the surrogate is bounded below by c A (arXiv 1912.09729); null "
        "disables it.",
    )
    kl_coef: float = Field(0.01, ge=0, description="Coefficient of KL(policy || reference) in the loss (beta).")
    kl_estimator: KlEstimator = Field(
        "low_var_kl",
        description="KL estimator: Schulman's k1, k2 or k3; low_var_kl is k3 clamped as in the authors' code.",
    )
    entropy_coef: float = Field(
        0.0,
        ge=0,
        description="Coefficient of the policy's entropy, which is subtracted from the loss (entropy bonus); backward "
        "then keeps more of the logits of a chunk in memory.",
    )

    @property
    def uses_requery(self) -> bool:
        """Whether it learns from re-queries: from their tokens, or from a reward that they give."""
        return self.trains_requery or any(name in self.reward for name in (*OF_REQUERIES, VISUAL_OWN))

    @property
    def trains_requery(self) -> bool:
        """Whether it trains the tokens of re-queries."""
        return "requery" in self.tokens

    @model_validator(mode="after")
    def _group_is_of_what_it_trains(self) -> Self:
        if self.group == "description" and self.tokens != ["requery"]:
            raise SettingError(
                "group",
                f"description compares re-queries, and this component trains {', '.join(self.tokens)}: set tokens to "
                "[requery], or group to prompt",
            )
        return self


class SftConfig(Section):
    """Supervised fine-tuning: the tiny base model and the cold start."""

    steps: int | None = Field(
        None, gt=0, description="Number of optimizer steps; default: `epochs` passes over the data."
    )
    epochs: Positive = Field(3, description="Passes over the data where `steps` is not set.")
    sequences_per_step: Positive = Field(128, description="Conversations per optimizer step, over all ranks.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate; cosine decay to a tenth of it.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Fraction of steps with linear warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    freeze_vision: bool = Field(True, description="Freeze the vision tower and the projector.")
    evaluate_every: int = Field(
        100, ge=0, description="Steps between evaluations on data.sft_evaluation; 0: only after the last."
    )
    checkpoint_every: int = Field(
        0, ge=0, description="Steps between checkpoints to resume from; 0: only when stopped."
    )
    output: HomePath | None = Field(None, description="Folder for the result; default: sft in the run's folder.")


class OffPolicyConfig(Section):
    """Correction for tokens that another policy sampled than the one that learns from them."""

    recompute_proximal: bool = Field(
        False,
        description="Recompute old log-probabilities with the trainer before each batch (one extra forward pass); "
        "ratios are clipped against them, and tokens are weighted by the importance ratio to the actors' policy, as "
        "`correction` says (decoupled PPO). Off: ratios are taken against the actors' log-probabilities.",
    )
    correction: Correction = Field(
        "truncated",
        description="How importance weights are bounded; requires recompute_proximal. truncated: at most "
        "max_importance_weight. masked_token: tokens above it get weight 0. masked_sequence: every token gets its "
        "sequence's weight, the product over its tokens, and sequences above the bound get 0. icepop: tokens outside "
        "[icepop_low, icepop_high] get 0.",
    )
    max_importance_weight: float = Field(
        2.0, ge=1, description="Upper bound of importance weights; used with recompute_proximal, not by icepop."
    )
    icepop_low: float = Field(0.5, ge=0, le=1, description="Lower bound of importance weights with icepop (alpha).")
    icepop_high: float = Field(5.0, ge=1, description="Upper bound of importance weights with icepop (beta).")
    stale_token_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight factor per version by which a token exceeds max_staleness; 0 masks such tokens, 1 keeps "
        "their full weight.",
    )

    @model_validator(mode="after")
    def _correction_has_weights(self) -> Self:
        if self.correction != "truncated" and not self.recompute_proximal:
            raise SettingError(
                "correction",
                f"{self.correction} needs the trainer's own log-probabilities: set "
                "learner.off_policy.recompute_proximal=true",
            )
        return self


class DependencyConfig(Section):
    """Visual dependency of response tokens: the policy's divergence from itself with masked images. It takes one more
    forward pass over answers to prompts with images, and one more forward and backward pass with a bonus."""

    measure: bool = Field(
        False, description="Log dependency/PART: the mean over tokens of the response, description, think and answer."
    )
    mask_ratio: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Share of an image's squares that are masked, each about as large as what one image token shows.",
    )
    token_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of each response's tokens, those of highest dependency, that the surrogate trains (after "
        "VPPO, arXiv 2510.09285); null: all. Answers to prompts without images are trained whole.",
    )
    kl_bonus: float = Field(
        0.0,
        ge=0,
        description="Coefficient gamma of the mean dependency, which is subtracted from the loss (after PAPO, arXiv "
        "2507.06448).",
    )
    kl_bonus_cap: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Dependency, in nats, above which a token gets no more bonus; keeps the policy from collapsing.",
    )

    @property
    def is_used(self) -> bool:
        """Whether masked images are needed."""
        return self.measure or self.token_share is not None or self.kl_bonus > 0


class ScheduleConfig(Section):
    """The learning rate over the optimizer steps of an RL run, as in transformers' get_scheduler."""

    name: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="After warm-up: constant, or a linear or cosine decay to 0 at the run's last step."
    )
    warmup_steps: int = Field(
        0, ge=0, description="Optimizer steps in which the learning rate rises linearly from 0 to learning_rate."
    )


class LimitConfig(Section):
    """A limit of a scalar."""

    above: float | None = Field(None, gt=0, description="The run stops when the scalar exceeds it; null: never.")
    batches: Positive = Field(3, description="Number of batches in a row that must exceed it.")


class StopWhenConfig(Section):
    """When an RL run stops before its last batch: it writes a checkpoint, and ends with status 2 and the reason."""

    grad_norm: LimitConfig = Field(LimitConfig(), description="Limit of grad_norm/mean, before clipping.")
    kl: LimitConfig = Field(LimitConfig(), description="Limit of kl/COMPONENT, to the reference, of any component.")
    approx_kl: LimitConfig = Field(
        LimitConfig(), description="Limit of approx_kl/COMPONENT, to the old policy, of any component."
    )
    skipped_steps: Positive = Field(
        3,
        description="Number of optimizer steps in a row that are skipped because of a loss or gradient that is not "
        "finite, in supervised fine-tuning too.",
    )


class LoraConfig(Section):
    """Low-rank adapters in place of full fine-tuning; checkpoints have merged weights."""

    rank: int = Field(0, ge=0, le=512, description="Rank of the low-rank adapters; 0: full fine-tuning.")
    alpha: float = Field(32.0, gt=0, description="Scale of the adapters: their product is multiplied by alpha / rank.")
    target_modules: str = Field(
        r".*(language_model|text_model).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|"
        r"in_proj_qkv|in_proj_z|in_proj_a|in_proj_b|out_proj)",
        description="Regular expression of the linear modules that get an adapter.",
    )
    publish: Literal["merged", "adapter"] = Field(
        "merged",
        description="merged: publish all weights. adapter: publish only the adapters, beside the weights of "
        "model.path; transfers less, generates slower.",
    )

    @property
    def goes_to_actors(self) -> bool:
        """Whether actors apply adapters themselves."""
        return self.rank > 0 and self.publish == "adapter"


class ReferenceConfig(Section):
    """The frozen policy of the KL term; there is none where every component's kl_coef is 0."""

    placement: Placement = Field(
        "policy",
        description="Where the reference's weights are. policy: where the policy's are, a copy on every rank, or "
        "sharded where zero_stage is 3. sharded: over the ranks, gathered layer by layer. cpu: sharded in CPU memory, "
        "fetched layer by layer. Adapters without refresh_every need none: the reference is the policy without them.",
    )
    refresh_every: int = Field(
        0, ge=0, description="Number of batches after which the current policy becomes the reference; 0: never."
    )


class GroupsConfig(Section):
    """Which of the scored groups are learned from."""

    dynamic_sampling: bool = Field(
        False,
        description="Drop groups with zero advantage in every component and sample other prompts instead (dynamic "
        "sampling of DAPO).",
    )
    replacement_rounds: Positive = Field(
        5,
        description="Maximum number of times that dropped groups of a batch are replaced; the batch is then used as "
        "it is.",
    )
    mask_truncated: bool = Field(
        False, description="Mask all tokens of sequences that were truncated at the token limit (DAPO)."
    )


class WeightsConfig(Section):
    """Publishing weights to the actors."""

    backend: Literal["auto", "nccl", "gloo"] = Field(
        "auto", description="Transfer backend; auto: nccl on CUDA, gloo on CPUs."
    )
    bucket_mib: Annotated[float, Field(gt=0)] = Field(64.0, description="Size of one broadcast, MiB.")
    sync_timeout_s: Seconds = Field(
        60.0, description="An actor that does not finish its part of an update within this time is excluded."
    )
    attempts: Positive = Field(
        5, description="Attempts to publish a version, each with the actors then alive, before the run stops."
    )
    verify_every: int = Field(
        20,
        ge=0,
        description="Compare the actors' log-probabilities with the trainer's at the start and every this many "
        "versions, with the prompts' images and with replaced ones; 0: never.",
    )
    verify_tolerance: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Mean absolute difference of log-probabilities at which the run stops; null: 0.02 in float32, 0.2 "
        "in bfloat16, 0.1 in float16. A quarter of it gives a warning. Versions after the first stop the run where "
        "they differ by 0.05 more than it did.",
    )
    update_mode: Literal["in_flight", "wait", "abort"] = Field(
        "in_flight",
        description="What happens to running generations at an update: in_flight continues them with the new weights, "
        "wait finishes them first, abort restarts them.",
    )
    same_weights_grace_s: Seconds = Field(
        2.0, description="How long an actor keeps its weights for the re-queries of finished rollouts."
    )
    send: Literal["full", "delta"] = Field(
        "full",
        description="full transfers all weights; delta transfers only changed elements between full transfers, which "
        "pays over slow networks; `vision-sr1 plan` compares both.",
    )
    full_sync_every: Positive = Field(
        16, description="With delta: every this many versions all weights are transferred."
    )

    @model_validator(mode="after")
    def _grace_ends_in_time(self) -> Self:
        if self.same_weights_grace_s >= self.sync_timeout_s:
            raise SettingError(
                "same_weights_grace_s",
                f"{self.same_weights_grace_s} must be less than learner.weights.sync_timeout_s "
                f"({self.sync_timeout_s}): an actor that waits longer would be excluded from the fleet",
            )
        return self


class LearnerConfig(Section):
    """The DeepSpeed learner."""

    processes: Positive = Field(1, description="Number of ranks that the local launcher starts with torchrun.")
    batches: int = Field(100, ge=0, description="Number of batches to train; 0 only publishes and evaluates.")
    prompts_per_batch: Positive = Field(512, description="Prompts per batch; one policy version answers them.")
    prompts_per_step: Positive = Field(128, description="Prompts per optimizer step; must divide prompts_per_batch.")
    max_staleness: int = Field(
        0, ge=0, description="Maximum number of versions by which a rollout may be behind; 0 is synchronous."
    )
    learning_rate: float = Field(1e-6, gt=0, description="AdamW learning rate; the peak of `schedule`.")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient clipping norm.")
    freeze_vision: bool = Field(False, description="Freeze the vision tower and the projector in RL.")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2,
        description="DeepSpeed ZeRO stage. Ranks divide the optimizer's state from 1 on, gradients from 2 on, weights "
        "at 3. At 0 gradients of bfloat16 weights are summed in bfloat16, else in float32.",
    )
    micro_batch_tokens: Positive = Field(
        16384,
        description="Tokens per forward pass, with a shared prompt counted once; a longer sequence gets a pass of its "
        "own.",
    )
    logits_chunk_tokens: Positive = Field(1024, description="Number of positions whose logits are in memory at once.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, slower."
    )
    preset: str | None = Field(
        "vision_sr1", description="Named objective with its prompt and reward settings; null: set `components`."
    )
    components: list[ComponentConfig] = Field([], description="The objective's components; default: the preset's.")
    advantage_epsilon: float = Field(1e-6, gt=0, description="Added to the standard deviation of a group.")
    evaluate_every: int = Field(5, ge=0, description="Batches between evaluations; 0: only first and last.")
    checkpoint_every: Positive = Field(15, description="Batches between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="Number of latest checkpoints to keep.")
    keep_best: str | None = Field(
        None,
        description="Evaluation metric, such as eval_accuracy/normal, by which the best checkpoint is kept as well; "
        "null: only the latest are kept.",
    )
    groups_timeout_s: Seconds = Field(600.0, description="The run stops when no scored group arrives for this time.")
    resume: bool = Field(False, description="Continue from the run's last checkpoint.")
    schedule: ScheduleConfig = ScheduleConfig()
    stop_when: StopWhenConfig = StopWhenConfig()
    off_policy: OffPolicyConfig = OffPolicyConfig()
    dependency: DependencyConfig = DependencyConfig()
    lora: LoraConfig = LoraConfig()
    reference: ReferenceConfig = ReferenceConfig()
    groups: GroupsConfig = GroupsConfig()
    sft: SftConfig = SftConfig()
    weights: WeightsConfig = WeightsConfig()

    @model_validator(mode="after")
    def _has_components(self) -> Self:
        names = [component.name for component in self.components]
        if not names:
            raise SettingError("components", "there are none: give learner.preset or learner.components")
        if len(set(names)) < len(names):
            raise SettingError("components", f"each needs a name of its own, not {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _steps_divide_batch(self) -> Self:
        if self.prompts_per_batch % self.prompts_per_step:
            raise SettingError(
                "prompts_per_step",
                f"{self.prompts_per_step} does not divide learner.prompts_per_batch ({self.prompts_per_batch}); "
                f"possible: {', '.join(map(str, _divisors_near(self.prompts_per_step, self.prompts_per_batch)))}",
            )
        return self

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps of a whole batch."""
        return self.prompts_per_batch // self.prompts_per_step

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        steps = self.batches * self.steps_per_batch
        if self.schedule.warmup_steps > steps > 0:
            raise SettingError(
                "schedule.warmup_steps",
                f"{self.schedule.warmup_steps} exceeds the run's {steps} optimizer steps: {self.batches} batches "
                f"(learner.batches) of {self.steps_per_batch}",
            )
        return self

    @model_validator(mode="after")
    def _kl_is_known(self) -> Self:
        if self.stop_when.kl.above is not None and not any(component.kl_coef > 0 for component in self.components):
            raise SettingError(
                "stop_when.kl",
                "there is no KL to the reference to look at, for kl_coef is 0 in every component: set "
                "learner.stop_when.approx_kl instead",
            )
        return self


def _divisors_near(number: int, total: int) -> list[int]:
    """The divisors of `total` nearest to a number, two below it and two above."""
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    return [*[n for n in divisors if n < number][-2:], *[n for n in divisors if n > number][:2]]
