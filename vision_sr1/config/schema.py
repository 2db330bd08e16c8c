"""The configuration tree: every field with its default, its unit and its effect.

Names carry their unit (`_s` seconds, `_gib`, `_mib`, `prompts_per_…`). An unknown key is an error.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from vision_sr1.prompting.response import ResponseFormat
from vision_sr1.rewards.names import GRADER_DISAGREEMENT, JUDGE, RANGES
from vision_sr1.run_folder.names import TRACES

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


def in_home(path: Path) -> Path:
    """With `~` as the home folder; as it is where no user of that name has one."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _url(text: str) -> str:
    try:
        urlsplit(text)
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from None
    return text


def _http_url(text: str) -> str:
    if urlsplit(_url(text)).scheme not in ("http", "https"):
        raise ValueError("is to begin with http:// or https://")
    return text


HomePath = Annotated[Path, AfterValidator(in_home)]
Url = Annotated[str, AfterValidator(_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
TokenSet = Literal["response", "description", "reasoning", "requery"]
AdvantageNormalizer = Literal["group", "group_mean", "leave_one_out", "gdpo"]
GraderName = Literal["mathruler", "math_verify", "exact", "normalized", "choice", "numeric", "any_of", "judge"]
TrackerName = Literal["wandb", "mlflow", "trackio"]
KlEstimator = Literal["k1", "k2", "k3", "low_var_kl"]


class Section(BaseModel):
    """A part of the tree; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class RunConfig(Section):
    """What this run is called and where its files go."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the run.")
    dir: HomePath = Field(Path("runs"), description="Folder of all runs; this one's files go to dir/name.")
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the data order, of sampling and of weight initialization."
    )

    @property
    def path(self) -> Path:
        """The run's own folder."""
        return self.dir / self.name


class ModelConfig(Section):
    """The policy."""

    path: str = Field(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        description="Folder or hub name of the initial weights, in Hugging Face format.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="Of the weights in actors and in the learner's forward pass."
    )
    max_model_len: Positive = Field(14848, description="Prompt and response tokens of one sequence, at most.")
    min_pixels: Positive = Field(262_144, description="Smaller images are enlarged to this many pixels.")
    max_pixels: Positive = Field(4_194_304, description="Larger images are reduced to this many pixels.")


class SourceConfig(Section):
    """One of several sets that are mixed."""

    path: str = Field(description="File, several by a pattern, folder, or name on a hub; @split at its end.")
    weight: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="How often an epoch has each of its rows: 2 twice, 0.5 every other."
    )


def _sources(value: Any) -> Any:
    """One set, or a list of sets, each by its path or with its weight."""
    found = [] if value is None else value if isinstance(value, list) else [value]
    return [{"path": source} if isinstance(source, str) else source for source in found]


Sources = Annotated[list[SourceConfig], BeforeValidator(_sources)]


class DataConfig(Section):
    """The data sets, which the `datasets` library reads from files, folders and hubs (docs/data.md)."""

    train: Sources = Field([], description="RL prompts: one set, or a list of them.")
    evaluation: dict[str, str] = Field({}, description="Held-out splits by name, each one set.")
    sft: Sources = Field([], description="Conversations for supervised stages: one set, or a list of them.")
    sft_evaluation: Sources = Field([], description="Held-out conversations, to watch supervised stages by.")
    prompt_key: str = Field("problem", description="Column of the question; `a.b` is the field b of a column a.")
    answer_key: str = Field("answer", description="Column of the reference answer.")
    image_key: str = Field("images", description="Column of the images: one, or a list, of bytes/path structs.")
    source_key: str = Field("data_source", description="Column naming the source; optional in the data.")
    scene_key: str = Field(
        "scene", description="Column of the true description for description fidelity; optional in the data."
    )
    prompt_template: str = Field(
        "answer", description="Jinja file, or name of a built-in template, that turns a question into a prompt."
    )
    max_image_bytes: Positive = Field(20_000_000, description="Larger encoded images are refused.")
    max_image_pixels: Positive = Field(
        89_478_485, description="Images of more pixels are refused before they are decoded."
    )
    image_root: HomePath | None = Field(
        None, description="Folder that image paths in the data start from and stay in; default: the data file's own."
    )


class SamplingConfig(Section):
    """How answers are sampled while training; evaluation is greedy."""

    group_size: Annotated[int, Field(ge=2)] = Field(8, description="Answers per prompt (G of GRPO).")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="Softmax temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(0.99, description="Nucleus sampling mass.")
    max_prompt_tokens: Positive = Field(12_800, description="Longer prompts, images included, are refused.")
    max_tokens: Positive = Field(2048, description="Response tokens at most.")
    deterministic_sampling: bool = Field(
        True,
        description="Give each sample a random stream of its own, which follows from run.seed and its prompt's id; "
        "without, sampling is a little faster and no run repeats another.",
    )


class ActorsConfig(Section):
    """The vLLM actor servers."""

    count: Positive = Field(1, description="Actors that the local launcher starts.")
    host: str = Field("127.0.0.1", description="Address an actor listens on and announces.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="gRPC port; 0 takes a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one.")
    tensor_parallel_size: Positive = Field(1, description="GPUs per actor.")
    prompts_in_flight: Positive = Field(64, description="Prompts one actor answers at once.")
    max_num_seqs: Positive = Field(256, description="Sequences vLLM decodes in one batch.")
    kv_cache_gib: Annotated[float, Field(gt=0)] = Field(1.0, description="Key-value cache on CPU actors, GiB.")
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="Share of GPU memory for vLLM."
    )
    enforce_eager: bool = Field(False, description="Skip graph capture: slower, starts faster. Always on CPU.")
    enable_prefix_caching: bool = Field(True, description="Reuse key-value blocks of equal prefixes.")
    cpu_threads: Positive = Field(1, description="OpenMP threads of a CPU actor's engine.")
    heartbeat_s: Seconds = Field(2.0, description="Between announcements; gone after five are missed.")
    drain_s: Seconds = Field(1.0, description="On SIGTERM: time to finish prompts before handing them back.")


class RequeryConfig(Section):
    """The second rollout: the policy answers from its description alone."""

    template: str = Field(
        "requery", description="Jinja file or built-in template: description and question to re-query prompt."
    )
    samples: Positive = Field(1, description="Answers to one re-query; the reward `visual` is the mean of theirs.")
    temperature: float | None = Field(None, ge=0, description="0 is greedy; null: that of the rollout.")
    reuse: Literal["greedy", "always"] = Field(
        "greedy",
        description="Rollouts of a group with equal descriptions share one re-query: where it is greedy, or always. "
        "Sampled ones that are shared give the reading of descriptions less to learn from.",
    )
    max_tokens: Positive = Field(2048, description="Response tokens at most.")
    timeout_s: Seconds = Field(120.0, description="A re-query not answered by then is tried again.")
    attempts: Positive = Field(3, description="Tries before the reward `visual` is missing.")

    def is_shared(self, temperature: float) -> bool:
        """Whether equal descriptions share the re-query of a rollout that was sampled at this temperature."""
        own = temperature if self.temperature is None else self.temperature
        return self.reuse == "always" or own == 0


class JudgeConfig(Section):
    """Another model: it answers from the description, for the reward `judge` beside the policy's own `visual`, and
    compares answers where a grader is `judge`."""

    url: HttpUrl | None = Field(
        None, description="Base URL of an OpenAI-compatible API, such as vLLM's; null: no judge."
    )
    model: str = Field("", description="Name of the model there.")
    answers: bool = Field(
        True, description="Give the reward `judge`: it answers from every description. Without, it only grades."
    )
    api_key: SecretStr | None = Field(None, description="Set it with VISION_SR1_JUDGE_API_KEY, not in a file.")
    max_tokens: Positive = Field(2048, description="Tokens of one judgement at most.")
    timeout_s: Seconds = Field(60.0, description="For one try.")
    attempts: Positive = Field(3, description="Tries, with a pause that doubles, before the reward is missing.")
    requests_in_flight: Positive = Field(32, description="Asked at once by one replica; a server batches them.")
    requests_per_minute: int | None = Field(None, gt=0, description="Of one replica at most; null: no limit.")
    usd_per_million_prompt_tokens: float = Field(0.0, ge=0, description="Price, for the cost metric.")
    usd_per_million_completion_tokens: float = Field(0.0, ge=0, description="Price, for the cost metric.")


class RewardFunctionConfig(Section):
    """A reward of your own: a Python function (docs/rewards.md)."""

    function: str | None = Field(
        None,
        pattern=r"^[\w.]+:[\w.]+$",
        description="module:function; null: the entry point of this name in the group vision_sr1.rewards.",
    )
    per: Literal["rollout", "group"] = Field(
        "rollout", description="What it is given: one answer, or all answers to a prompt."
    )
    range: tuple[float, float] = Field((0.0, 1.0), description="Least and greatest value; others count as missing.")
    images: bool = Field(False, description="Whether it is given the prompt's images, as encoded files.")
    timeout_s: Seconds = Field(10.0, description="For one try.")
    attempts: Positive = Field(2, description="Tries before the reward is missing.")

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range {list(self.range)}: the first number must be less than the second")
        return self


class ApiConfig(Section):
    """The REST API and the page."""

    token: SecretStr | None = Field(
        None,
        description="Bearer token that requests must have; may be null only where reward.host is a loopback address. "
        "Set it with VISION_SR1_API_TOKEN, not in a file.",
    )
    cors_origins: list[str] = Field([], description="Origins of other pages that may ask, such as https://lab.example.")
    max_request_bytes: Positive = Field(1_000_000, description="Larger request bodies are refused.")
    requests_per_minute: Positive = Field(1200, description="Of one client at most.")


class TracesConfig(Section):
    """The trace store: what every reward saw."""

    url: Url | None = Field(
        None,
        description="sqlite:///FILE or, for several replicas, postgresql+psycopg://USER@HOST/DB; "
        "null: traces.sqlite in the run's folder.",
    )
    password: SecretStr | None = Field(None, description="Set it with VISION_SR1_TRACES_PASSWORD, not in a file.")
    buffer: Positive = Field(20_000, description="Traces waiting for the store at most; then dropped.")
    sample: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="Share of groups whose traces are kept; statistics count all."
    )
    keep_days: float | None = Field(None, gt=0, description="Older traces are removed; null: none.")
    keep_count: int | None = Field(None, gt=0, description="All but so many of the newest are removed; null: none.")


class RewardConfig(Section):
    """The reward service."""

    host: str = Field("127.0.0.1", description="Address of the REST API.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8088, description="Port of the REST API.")
    grader: GraderName = Field(
        "mathruler", description="Rule that compares answers; `judge` asks the model at judge.url instead."
    )
    graders: dict[str, GraderName] = Field({}, description="Other rules by data source.")
    second_grader: GraderName | None = Field(
        None,
        description="Rule that also grades each answer: the reward `grader_disagreement` is 1 where the two differ; "
        "no other reward changes. null: none.",
    )
    grading_timeout_s: Seconds = Field(5.0, description="A grader that takes longer is killed; the reward is missing.")
    processes: Positive = Field(1, description="Of one replica, in which graders run; as many for `functions`.")
    numeric_tolerance: float = Field(0.01, ge=0, description="Relative error that the grader `numeric` lets pass.")
    response_format: ResponseFormat = Field(
        "description_think_answer", description="Blocks that the reward `format` asks of a response, in this order."
    )
    overlong_buffer_tokens: int = Field(
        0,
        ge=0,
        description="The reward `overlong` falls from 0 to -1 over the last so many tokens before sampling.max_tokens "
        "(DAPO); 0: -1 where the response was cut off.",
    )
    functions: dict[str, RewardFunctionConfig] = Field({}, description="Rewards of your own by name.")
    rollouts_in_flight: Positive = Field(512, description="Rollouts scored at once by one replica.")
    drain_s: Seconds = Field(1.0, description="On SIGTERM: time to finish rollouts before handing them back.")
    api: ApiConfig = ApiConfig()
    traces: TracesConfig = TracesConfig()
    requery: RequeryConfig = RequeryConfig()
    judge: JudgeConfig = JudgeConfig()

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Rewards that every rollout gets, and their least and greatest values."""
        judge = {JUDGE: (0.0, 1.0)} if self.judge.url and self.judge.answers else {}
        second = {GRADER_DISAGREEMENT: (0.0, 1.0)} if self.second_grader else {}
        return {**RANGES, **judge, **second, **{name: function.range for name, function in self.functions.items()}}

    def grader_of(self, data_source: str) -> GraderName:
        """The rule for answers to questions of a data source."""
        return self.graders.get(data_source, self.grader)

    @property
    def grader_names(self) -> set[GraderName]:
        """Graders that are used."""
        return {self.grader, *self.graders.values(), *([self.second_grader] if self.second_grader else [])}

    @property
    def names(self) -> list[str]:
        """Rewards that every rollout gets."""
        return list(self.ranges)

    @property
    def has_group_functions(self) -> bool:
        """Whether some reward can only be given once all answers to a prompt are there."""
        return any(function.per == "group" for function in self.functions.values())

    @model_validator(mode="after")
    def _judge_is_named(self) -> Self:
        if self.judge.url and not self.judge.model:
            raise ValueError("judge.url needs judge.model: the model's name at that endpoint")
        return self

    @model_validator(mode="after")
    def _judge_is_there_to_grade(self) -> Self:
        if "judge" in self.grader_names and not self.judge.url:
            raise ValueError("the grader `judge` needs judge.url and judge.model: who it is that compares answers")
        return self

    @model_validator(mode="after")
    def _functions_have_names_of_their_own(self) -> Self:
        for name in self.functions:
            if name in RANGES or name in (JUDGE, GRADER_DISAGREEMENT):
                raise ValueError(f"functions.{name}: a built-in reward has this name; choose another")
        return self


class ComponentConfig(Section):
    """One component of the objective: a reward, the tokens it trains, and its own clipping and KL."""

    name: str = Field(description="Label in metrics.")
    reward: dict[str, float] = Field(min_length=1, description="Named rewards and their factors, summed.")
    tokens: list[TokenSet] = Field(min_length=1, description="Sets of tokens that the component trains.")
    weight: float = Field(1.0, ge=0, description="Factor of the component in the loss (lambda).")
    advantage: AdvantageNormalizer = Field(
        "group",
        description="A reward minus its group's mean, over the group's deviation (group: GRPO) or not (group_mean: "
        "Dr. GRPO); minus the mean of the group's other rewards (leave_one_out: RLOO); or each named reward on its own "
        "as in GRPO, summed by factors and divided by the deviation over the batch (gdpo).",
    )
    ratio: Literal["token", "sequence"] = Field(
        "token", description="Ratio of each token, or the geometric mean over the sequence's tokens (sequence: GSPO)."
    )
    clip_ratio_low: float = Field(0.2, gt=0, lt=1, description="Ratios below 1 - this are clipped.")
    clip_ratio_high: float = Field(0.3, gt=0, description="Ratios above 1 + this are clipped.")
    clip_ratio_dual: float | None = Field(
        3.0, gt=1, description="A token of negative advantage counts at most this often; null: without this limit."
    )
    kl_coef: float = Field(0.01, ge=0, description="Factor of KL(policy || reference) in the loss (beta).")
    kl_estimator: KlEstimator = Field(
        "low_var_kl", description="Schulman's k1, k2 or k3; low_var_kl: k3 clamped as in the paper's code."
    )


class SftConfig(Section):
    """Supervised fine-tuning: the tiny base model and the cold start."""

    steps: int | None = Field(None, gt=0, description="Optimizer steps; default: `epochs` over the data.")
    epochs: Positive = Field(3, description="Passes over the data when `steps` is not given.")
    sequences_per_step: Positive = Field(128, description="Conversations per optimizer step, over all ranks.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak; cosine decay to a tenth of it.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of steps with a rising learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    freeze_vision: bool = Field(True, description="Leave vision tower and projector as they are.")
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
        description="Take ratios to the trainer's own log-probabilities before the batch, one more forward pass, and "
        "weight tokens by the truncated ratio of those to the actors'; otherwise take ratios to the actors'.",
    )
    max_importance_weight: float = Field(
        2.0, ge=1, description="Where importance weights are truncated; of effect with recompute_proximal."
    )
    stale_token_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Factor of a token's weight for each version by which it is staler than max_staleness; "
        "0 drops such tokens, 1 lets them count in full.",
    )


class LoraConfig(Section):
    """Low-rank adapters in place of full fine-tuning; checkpoints have merged weights."""

    rank: int = Field(0, ge=0, le=512, description="Rank of the adapters; 0: full fine-tuning.")
    alpha: float = Field(32.0, gt=0, description="The adapters' product counts alpha / rank.")
    target_modules: str = Field(
        r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        description="Regular expression of the linear modules that get one.",
    )
    publish: Literal["merged", "adapter"] = Field(
        "merged",
        description="Actors get all weights merged, or only the adapters beside the weights of model.path: less to "
        "send, slower generation.",
    )

    @property
    def goes_to_actors(self) -> bool:
        """Whether actors apply adapters themselves."""
        return self.rank > 0 and self.publish == "adapter"


class ReferenceConfig(Section):
    """The frozen policy of the KL term; there is none where every component's kl_coef is 0."""

    offload: bool = Field(False, description="Keep its weights in CPU memory, sharded, and fetch them layer by layer.")
    refresh_every: int = Field(
        0, ge=0, description="Batches after which the current policy becomes the reference; 0: never."
    )


class GroupsConfig(Section):
    """Which of the scored groups are learned from."""

    dynamic_sampling: bool = Field(
        False,
        description="Leave out groups whose rewards are all equal in every component, and draw others in their place "
        "(dynamic sampling of DAPO).",
    )
    replacement_rounds: Positive = Field(
        5, description="Times that left-out groups of a batch are replaced; then it is learned from as it is."
    )
    mask_truncated: bool = Field(
        False, description="Train no token of a sequence that was cut off at its token limit (DAPO)."
    )


class WeightsConfig(Section):
    """Publishing weights to the actors."""

    backend: Literal["auto", "nccl", "gloo"] = Field("auto", description="auto: nccl on CUDA, gloo on CPUs.")
    bucket_mib: Annotated[float, Field(gt=0)] = Field(64.0, description="Parameters packed per broadcast, MiB.")
    sync_timeout_s: Seconds = Field(
        60.0, description="An actor that dies or stalls in a publication is found, and left out, within this time."
    )
    attempts: Positive = Field(5, description="Tries, each with the actors then alive, before the run stops.")
    verify_every: int = Field(
        20,
        ge=0,
        description="At the start and every so many versions, a probe's log-probabilities are compared with the "
        "trainer's, with the images and with others; 0: not.",
    )
    verify_tolerance: Annotated[float, Field(gt=0)] = Field(
        0.05, description="Mean difference of a probe's log-probabilities at which the run stops."
    )
    update_mode: Literal["in_flight", "wait", "abort"] = Field(
        "in_flight", description="Generations under way at an update: continue, are waited for, or begin again."
    )
    same_weights_grace_s: Seconds = Field(
        2.0, description="An actor keeps its weights so long for the re-queries of rollouts that it has finished."
    )
    send: Literal["full", "delta"] = Field("full", description="delta: between full versions only what has changed.")
    full_sync_every: Positive = Field(16, description="With delta, every so many versions all weights are sent.")

    @model_validator(mode="after")
    def _grace_ends_in_time(self) -> Self:
        if self.same_weights_grace_s >= self.sync_timeout_s:
            raise ValueError(
                f"same_weights_grace_s {self.same_weights_grace_s} must be less than sync_timeout_s "
                f"{self.sync_timeout_s}: an actor that waits longer would be taken for dead"
            )
        return self


class LearnerConfig(Section):
    """The DeepSpeed learner."""

    processes: Positive = Field(1, description="Ranks that the local launcher starts with torchrun.")
    batches: int = Field(100, ge=0, description="Batches to train; 0 only publishes and evaluates.")
    prompts_per_batch: Positive = Field(512, description="Prompts answered by one policy version.")
    prompts_per_step: Positive = Field(128, description="Prompts per optimizer step; divides prompts_per_batch.")
    max_staleness: int = Field(0, ge=0, description="Versions a rollout may be behind; 0 is synchronous.")
    learning_rate: float = Field(1e-6, gt=0, description="AdamW learning rate, constant.")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    freeze_vision: bool = Field(False, description="Leave vision tower and projector as they are in RL.")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage.")
    micro_batch_tokens: Positive = Field(
        16384,
        description="Tokens per forward pass, a shared prompt counted once; longer sequences go alone.",
    )
    logits_chunk_tokens: Positive = Field(1024, description="Positions whose logits exist at once.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, slower.")
    preset: str | None = Field(
        "vision_sr1", description="Named objective, with what it needs of prompts and rewards; null: give `components`."
    )
    components: list[ComponentConfig] = Field([], description="The objective's components; default: the preset's.")
    advantage_epsilon: float = Field(1e-6, gt=0, description="Added to a group's standard deviation.")
    evaluate_every: int = Field(5, ge=0, description="Batches between evaluations; 0: only first and last.")
    checkpoint_every: Positive = Field(15, description="Batches between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="Latest checkpoints kept.")
    keep_best: str | None = Field(
        None,
        description="Scalar of the evaluation, such as eval_accuracy/normal, by which the best checkpoint is kept too; "
        "null: only the latest.",
    )
    groups_timeout_s: Seconds = Field(600.0, description="With no scored group for this long the run stops.")
    resume: bool = Field(False, description="Continue from the run's last checkpoint.")
    off_policy: OffPolicyConfig = OffPolicyConfig()
    lora: LoraConfig = LoraConfig()
    reference: ReferenceConfig = ReferenceConfig()
    groups: GroupsConfig = GroupsConfig()
    sft: SftConfig = SftConfig()
    weights: WeightsConfig = WeightsConfig()

    @model_validator(mode="after")
    def _has_components(self) -> Self:
        names = [component.name for component in self.components]
        if not names:
            raise ValueError("give learner.preset or learner.components")
        if len(set(names)) < len(names):
            raise ValueError(f"components need names of their own, not {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _steps_divide_batch(self) -> Self:
        if self.prompts_per_batch % self.prompts_per_step:
            raise ValueError(
                f"prompts_per_step ({self.prompts_per_step}) must divide prompts_per_batch ({self.prompts_per_batch})"
            )
        return self


class EvaluationConfig(Section):
    """`vision-sr1 eval` (docs/evaluation.md)."""

    benchmarks: dict[str, list[str]] = Field(
        {}, description="By name, the sets to read in place of the published ones; unknown names are sets of your own."
    )
    rows: int | None = Field(None, gt=0, description="Of each set at most, the first; null: all.")
    prompts_in_flight: Positive = Field(512, description="Questions issued and not answered at once.")
    judge_open_answers: bool = Field(
        False, description="Answers to questions without options are compared by the model at reward.judge.url."
    )
    resamples: Positive = Field(1000, description="Bootstrap samples behind each confidence interval.")


class StreamsConfig(Section):
    """Redis."""

    url: Url | None = Field(
        None,
        description="redis://, rediss:// or redis+sentinel://host:port,host:port/service/db; "
        "null: the local launcher starts an embedded server.",
    )
    password: SecretStr | None = Field(None, description="Set it with VISION_SR1_REDIS_PASSWORD, not in a file.")
    lease_s: Seconds = Field(15.0, description="Entries of a consumer silent for this long go to another.")
    max_deliveries: Positive = Field(5, description="Deliveries before an entry goes to the dead letters.")
    incomplete_groups: Literal["complete", "drop"] = Field(
        "complete",
        description="A group of which a rollout went to the dead letters: learned from without it, or not at all.",
    )
    image_ttl_s: Positive = Field(600, description="Images are kept for so long after the last use of their prompts.")
    id_ttl_s: Positive = Field(86_400, description="For this long a repeated id is recognised.")
    timeout_s: Seconds = Field(10.0, description="For one answer of the server.")
    retry_for_s: Seconds = Field(
        300.0, description="A server that is gone, full, frozen or failing over is waited for; then the service ends."
    )


class TlsConfig(Section):
    """Mutual TLS of gRPC between services. Redis has its own switch: a URL that begins with rediss://."""

    enabled: bool = Field(False, description="Both sides of every call show a certificate of the same authority.")
    certificate: Path = Field(Path("/etc/vision-sr1/tls/tls.crt"), description="This service's, PEM.")
    key: Path = Field(Path("/etc/vision-sr1/tls/tls.key"), description="Its private key, PEM.")
    ca: Path = Field(Path("/etc/vision-sr1/tls/ca.crt"), description="The authority's certificate, PEM.")
    server_name: str = Field(
        "vision-sr1-actor", description="DNS name in the actors' certificates, whatever their addresses are."
    )


class MetricsConfig(Section):
    """Prometheus endpoints, TensorBoard files, and experiment trackers (docs/tracking.md)."""

    host: str = Field("127.0.0.1", description="Address of the /metrics endpoints.")
    actor_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9110, description="Of the actor; 0: off. The launcher gives its n-th actor this plus n."
    )
    learner_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9102, description="Of the first learner rank on each machine; 0: off."
    )
    tensorboard: bool = Field(True, description="Write event files to the run's folder.")
    trackers: list[TrackerName] = Field(
        [], description="Curves and samples go there too; needs the packages of `vision-sr1[tracking]`."
    )
    project: str = Field("vision-sr1", description="What trackers gather runs under; MLflow calls it an experiment.")
    samples: int = Field(8, ge=0, description="Answers of each evaluation and split that are shown with their images.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="Where OpenTelemetry spans go, over HTTP, such as http://collector:4318/v1/traces; null: nowhere.",
    )


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
                    raise ValueError(
                        f"component {component.name!r} uses the reward 'judge': set reward.judge.url, and leave "
                        "reward.judge.answers true"
                    )
                if name not in self.reward.names:
                    known = ", ".join(self.reward.names)
                    raise ValueError(f"component {component.name!r}: unknown reward {name!r}; known: {known}")
        return self

    @property
    def traces_url(self) -> str:
        """SQLAlchemy URL of the trace store."""
        return self.reward.traces.url or f"sqlite:///{(self.run.path / TRACES).absolute()}"
