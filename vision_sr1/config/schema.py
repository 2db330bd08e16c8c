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
    dir: HomePath = Field(
        Path("runs"), description="Folder that contains all runs; the files of this run go to dir/name."
    )
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
        "bfloat16", description="Data type of the weights in the actors and in the learner's forward pass."
    )
    max_model_len: Positive = Field(14848, description="Maximum length of a sequence, prompt and response, in tokens.")
    min_pixels: Positive = Field(262_144, description="Smaller images are enlarged to this many pixels.")
    max_pixels: Positive = Field(4_194_304, description="Larger images are reduced to this many pixels.")


class SourceConfig(Section):
    """One of several sets that are mixed."""

    path: str = Field(description="File, glob pattern, folder, or hub name; append @split to choose a split.")
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="How often each row occurs in an epoch: 2 is twice, 0.5 every other epoch.",
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
    sft: Sources = Field([], description="Conversations for supervised fine-tuning: one set, or a list of sets.")
    sft_evaluation: Sources = Field([], description="Held-out conversations to evaluate supervised fine-tuning on.")
    prompt_key: str = Field("problem", description="Column of the question; `a.b` is the field b of a column a.")
    answer_key: str = Field("answer", description="Column of the reference answer.")
    image_key: str = Field("images", description="Column of the images: one, or a list, of bytes/path structs.")
    source_key: str = Field("data_source", description="Column with the name of the data source; may be absent.")
    scene_key: str = Field(
        "scene", description="Column with the true description, for description fidelity; may be absent."
    )
    prompt_template: str = Field(
        "answer", description="Jinja file, or name of a built-in template, that renders a question as a prompt."
    )
    max_image_bytes: Positive = Field(20_000_000, description="Larger encoded images are rejected.")
    max_image_pixels: Positive = Field(
        89_478_485, description="Images with more pixels are rejected before they are decoded."
    )
    image_root: HomePath | None = Field(
        None,
        description="Folder that image paths are relative to and must stay in; default: the folder of the data file.",
    )


class SamplingConfig(Section):
    """How answers are sampled while training; evaluation is greedy."""

    group_size: Annotated[int, Field(ge=2)] = Field(8, description="Responses per prompt (G in GRPO).")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="Softmax temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="Nucleus sampling: probability mass that is sampled from."
    )
    max_prompt_tokens: Positive = Field(12_800, description="Longer prompts, image tokens included, are rejected.")
    max_tokens: Positive = Field(2048, description="Maximum number of response tokens.")
    deterministic_sampling: bool = Field(
        True,
        description="Seed every sample from run.seed and its prompt id, so that runs are reproducible. Off: slightly "
        "faster, not reproducible.",
    )


class ActorsConfig(Section):
    """The vLLM actor servers."""

    count: Positive = Field(1, description="Number of actors that the local launcher starts.")
    host: str = Field("127.0.0.1", description="Address that an actor listens on and announces.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="gRPC port; 0 chooses a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto uses CUDA where it is available.")
    tensor_parallel_size: Positive = Field(1, description="GPUs per actor.")
    prompts_in_flight: Positive = Field(64, description="Prompts that one actor answers concurrently.")
    max_num_seqs: Positive = Field(256, description="Maximum number of sequences in a vLLM decoding batch.")
    kv_cache_gib: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Size of the key-value cache on CPU actors, GiB."
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="Fraction of GPU memory that vLLM may use."
    )
    enforce_eager: bool = Field(
        False, description="Disable graph capture: starts faster, generates slower. Always on for CPUs."
    )
    enable_prefix_caching: bool = Field(True, description="Reuse key-value blocks of equal prefixes.")
    cpu_threads: Positive = Field(1, description="OpenMP threads of a CPU actor's engine.")
    heartbeat_s: Seconds = Field(
        2.0, description="Interval between heartbeats; an actor that misses five has left the fleet."
    )
    drain_s: Seconds = Field(
        1.0, description="Time after SIGTERM to finish prompts before they are returned to the stream."
    )


class RequeryConfig(Section):
    """The second rollout: the policy answers from its description alone."""

    template: str = Field(
        "requery",
        description="Jinja file, or name of a built-in template, that renders description and question as the "
        "re-query.",
    )
    samples: Positive = Field(1, description="Responses per re-query; the reward `visual` is the mean over them.")
    temperature: float | None = Field(
        None, ge=0, description="Sampling temperature of the re-query; 0 is greedy, null uses the rollout's."
    )
    reuse: Literal["greedy", "always"] = Field(
        "greedy",
        description="When rollouts of a group with equal descriptions share one re-query: only where it is greedy, or "
        "always. Sharing sampled re-queries gives the re-query component fewer samples to learn from.",
    )
    max_tokens: Positive = Field(2048, description="Maximum number of response tokens.")
    timeout_s: Seconds = Field(120.0, description="A re-query without an answer is retried after this time.")
    attempts: Positive = Field(3, description="Attempts before the reward `visual` is missing.")

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
    model: str = Field("", description="Model name at that API.")
    answers: bool = Field(
        True,
        description="Give the reward `judge`, for which the model answers from every description. Off: the model only "
        "grades.",
    )
    api_key: SecretStr | None = Field(None, description="Set it with VISION_SR1_JUDGE_API_KEY, not in a file.")
    max_tokens: Positive = Field(2048, description="Maximum number of tokens per judgement.")
    timeout_s: Seconds = Field(60.0, description="Timeout of one attempt.")
    attempts: Positive = Field(3, description="Attempts, with exponential backoff, before the reward is missing.")
    requests_in_flight: Positive = Field(32, description="Concurrent requests of one replica.")
    requests_per_minute: int | None = Field(
        None, gt=0, description="Maximum request rate of one replica; null: unlimited."
    )
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
        "rollout", description="What the function receives: one response, or all responses to a prompt."
    )
    range: tuple[float, float] = Field(
        (0.0, 1.0), description="Minimum and maximum value; a value outside counts as missing."
    )
    images: bool = Field(False, description="Pass the prompt's images to the function, as encoded files.")
    timeout_s: Seconds = Field(10.0, description="Timeout of one attempt.")
    attempts: Positive = Field(2, description="Attempts before the reward is missing.")

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range {list(self.range)}: the first number must be less than the second")
        return self


class ApiConfig(Section):
    """The REST API and the page."""

    token: SecretStr | None = Field(
        None,
        description="Bearer token that requests must present; may be null only where reward.host is a loopback "
        "address. Set it with VISION_SR1_API_TOKEN, not in a file.",
    )
    cors_origins: list[str] = Field(
        [], description="Origins of other pages that may call the API, such as https://lab.example."
    )
    max_request_bytes: Positive = Field(1_000_000, description="Larger request bodies are rejected.")
    requests_per_minute: Positive = Field(1200, description="Maximum request rate of one client.")


class TracesConfig(Section):
    """The trace store: what every reward saw."""

    url: Url | None = Field(
        None,
        description="sqlite:///FILE or, for several replicas, postgresql+psycopg://USER@HOST/DB; "
        "null: traces.sqlite in the run's folder.",
    )
    password: SecretStr | None = Field(None, description="Set it with VISION_SR1_TRACES_PASSWORD, not in a file.")
    buffer: Positive = Field(
        20_000, description="Maximum number of traces that wait for the store; further traces are dropped."
    )
    sample: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="Fraction of groups whose traces are stored; statistics include all."
    )
    keep_days: float | None = Field(None, gt=0, description="Older traces are deleted; null: never.")
    keep_count: int | None = Field(
        None, gt=0, description="Number of traces to keep, the newest; older ones are deleted; null: all."
    )


class RewardConfig(Section):
    """The reward service."""

    host: str = Field("127.0.0.1", description="Address of the REST API.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8088, description="Port of the REST API.")
    grader: GraderName = Field(
        "mathruler", description="Rule that compares an answer with the reference; `judge` uses the model at judge.url."
    )
    graders: dict[str, GraderName] = Field({}, description="Rule per data source, where it differs from `grader`.")
    second_grader: GraderName | None = Field(
        None,
        description="Second rule that grades every answer: the reward `grader_disagreement` is 1 where the two rules "
        "differ. It changes no other reward. null: none.",
    )
    grading_timeout_s: Seconds = Field(
        5.0, description="A grader that takes longer is killed, and the reward is missing."
    )
    processes: Positive = Field(1, description="Processes of one replica that run graders; as many run `functions`.")
    numeric_tolerance: float = Field(0.01, ge=0, description="Relative error that the grader `numeric` accepts.")
    response_format: ResponseFormat = Field(
        "description_think_answer", description="Blocks that the reward `format` requires, in this order."
    )
    overlong_buffer_tokens: int = Field(
        0,
        ge=0,
        description="The reward `overlong` falls from 0 to -1 over this many tokens before sampling.max_tokens "
        "(DAPO); 0: -1 for truncated responses only.",
    )
    functions: dict[str, RewardFunctionConfig] = Field({}, description="Your own reward functions, by name.")
    rollouts_in_flight: Positive = Field(512, description="Rollouts that one replica scores concurrently.")
    drain_s: Seconds = Field(
        1.0, description="Time after SIGTERM to finish rollouts before they are returned to the stream."
    )
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
        "ratios are clipped against them, and tokens are weighted by the truncated importance ratio "
        "(decoupled PPO). Off: ratios are taken against the actors' log-probabilities.",
    )
    max_importance_weight: float = Field(
        2.0, ge=1, description="Upper bound of importance weights; used with recompute_proximal."
    )
    stale_token_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight factor per version by which a token exceeds max_staleness; 0 masks such tokens, 1 keeps "
        "their full weight.",
    )


class LoraConfig(Section):
    """Low-rank adapters in place of full fine-tuning; checkpoints have merged weights."""

    rank: int = Field(0, ge=0, le=512, description="Rank of the low-rank adapters; 0: full fine-tuning.")
    alpha: float = Field(32.0, gt=0, description="Scale of the adapters: their product is multiplied by alpha / rank.")
    target_modules: str = Field(
        r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
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

    offload: bool = Field(
        False, description="Keep the reference's weights in CPU memory, sharded, and fetch them layer by layer."
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
    verify_tolerance: Annotated[float, Field(gt=0)] = Field(
        0.05, description="Mean absolute difference of log-probabilities at which the run stops."
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
        "full", description="full transfers all weights; delta transfers only changed elements between full transfers."
    )
    full_sync_every: Positive = Field(
        16, description="With delta: every this many versions all weights are transferred."
    )

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

    processes: Positive = Field(1, description="Number of ranks that the local launcher starts with torchrun.")
    batches: int = Field(100, ge=0, description="Number of batches to train; 0 only publishes and evaluates.")
    prompts_per_batch: Positive = Field(512, description="Prompts per batch; one policy version answers them.")
    prompts_per_step: Positive = Field(128, description="Prompts per optimizer step; must divide prompts_per_batch.")
    max_staleness: int = Field(
        0, ge=0, description="Maximum number of versions by which a rollout may be behind; 0 is synchronous."
    )
    learning_rate: float = Field(1e-6, gt=0, description="AdamW learning rate, constant.")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient clipping norm.")
    freeze_vision: bool = Field(False, description="Freeze the vision tower and the projector in RL.")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage.")
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
        {}, description="Data set per benchmark, in place of the published one; other names are benchmarks of your own."
    )
    rows: int | None = Field(None, gt=0, description="Maximum number of rows per set, from its start; null: all.")
    prompts_in_flight: Positive = Field(
        512, description="Maximum number of questions that are issued and not answered yet."
    )
    judge_open_answers: bool = Field(
        False, description="Grade answers to questions without options with the model at reward.judge.url."
    )
    resamples: Positive = Field(1000, description="Number of bootstrap resamples for confidence intervals.")


class StreamsConfig(Section):
    """Redis."""

    url: Url | None = Field(
        None,
        description="redis://, rediss:// or redis+sentinel://host:port,host:port/service/db; "
        "null: the local launcher starts an embedded server.",
    )
    password: SecretStr | None = Field(None, description="Set it with VISION_SR1_REDIS_PASSWORD, not in a file.")
    lease_s: Seconds = Field(
        15.0, description="Entries of a consumer that is silent for this long are delivered to another."
    )
    max_deliveries: Positive = Field(
        5, description="Number of deliveries after which an entry goes to the dead letters."
    )
    incomplete_groups: Literal["complete", "drop"] = Field(
        "complete",
        description="A group that lost a rollout to the dead letters is completed without it, or dropped.",
    )
    image_ttl_s: Positive = Field(600, description="How long images are kept after the last prompt that uses them.")
    id_ttl_s: Positive = Field(86_400, description="How long a repeated id is recognized.")
    timeout_s: Seconds = Field(10.0, description="Timeout of one command.")
    retry_for_s: Seconds = Field(
        300.0,
        description="How long commands are retried while the server is down, full, frozen or failing over; then the "
        "service ends.",
    )


class TlsConfig(Section):
    """Mutual TLS of gRPC between services. Redis has its own switch: a URL that begins with rediss://."""

    enabled: bool = Field(False, description="Both sides of every call present a certificate of the same authority.")
    certificate: Path = Field(Path("/etc/vision-sr1/tls/tls.crt"), description="Certificate of this service, PEM.")
    key: Path = Field(Path("/etc/vision-sr1/tls/tls.key"), description="Private key of this service, PEM.")
    ca: Path = Field(Path("/etc/vision-sr1/tls/ca.crt"), description="Certificate of the authority, PEM.")
    server_name: str = Field(
        "vision-sr1-actor",
        description="DNS name in the actors' certificates; it replaces their addresses in the check.",
    )


class MetricsConfig(Section):
    """Prometheus endpoints, TensorBoard files, and experiment trackers (docs/tracking.md)."""

    host: str = Field("127.0.0.1", description="Address of the /metrics endpoints.")
    actor_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9110, description="Metrics port of an actor; 0: off. The launcher adds the actor's number."
    )
    learner_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9102, description="Metrics port of the first learner rank on each machine; 0: off."
    )
    tensorboard: bool = Field(True, description="Write TensorBoard event files to the run's folder.")
    trackers: list[TrackerName] = Field(
        [],
        description="Experiment trackers that also receive curves and examples; needs the packages of "
        "`vision-sr1[tracking]`.",
    )
    project: str = Field("vision-sr1", description="Project name in trackers; MLflow calls it an experiment.")
    samples: int = Field(
        8, ge=0, description="Number of answers per evaluation and split that trackers show with their images."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum level of log events.")
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="OTLP/HTTP endpoint for OpenTelemetry spans, such as http://collector:4318/v1/traces; null: off.",
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
