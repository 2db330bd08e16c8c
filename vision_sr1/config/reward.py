"""The section `reward`: rewards, graders, re-query, judge, API and traces."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from vision_sr1.config.section import HttpUrl, Positive, Seconds, Section, SettingError, Url, without_password
from vision_sr1.prompting.response import ResponseFormat
from vision_sr1.rewards.names import BESIDE_REWARDS, GRADER_DISAGREEMENT, JUDGE, RANGES, VISUAL_OWN

GraderName = Literal["mathruler", "math_verify", "exact", "normalized", "choice", "numeric", "any_of", "judge"]


class RequeryConfig(Section):
    """The second rollout: the policy answers from its description alone."""

    template: str = Field(
        "requery",
        description="Jinja file, or name of a built-in template, that renders description and question as the "
        "re-query.",
    )
    when: Literal["always", "needed", "never"] = Field(
        "always",
        description="Which rollouts get a re-query. always: all that describe an image. needed: in training only if a "
        "component or a function of `functions` uses it, in evaluation all. never: none; the rewards `visual` and "
        "`requery_format` and the language shortcut rate are then not given.",
    )
    questions: Positive = Field(
        1,
        description="Questions that a description is asked in training: the row's own, and up to questions - 1 further "
        "ones about the same images (data.further_questions_key); the reward `visual` is the mean over them "
        "(arXiv 2509.22647).",
    )
    samples: Positive = Field(
        1, description="Responses per question of the re-query; the reward `visual` is the mean over them."
    )
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

    @model_validator(mode="after")
    def _questions_are_asked(self) -> Self:
        if self.questions > 1 and self.when == "never":
            raise SettingError(
                "questions",
                f"{self.questions} are asked by re-queries, and reward.requery.when: never makes none: set "
                "reward.requery.when to needed or always, or reward.requery.questions to 1",
            )
        return self

    def is_shared(self, temperature: float) -> bool:
        """Whether equal descriptions share the re-query of a rollout that was sampled at this temperature."""
        own = temperature if self.temperature is None else self.temperature
        return self.reuse == "always" or own == 0


class JudgeConfig(Section):
    """Another model: it answers from the description, for the reward `judge` beside the policy's own `visual`, and
    compares answers where a grader is `judge`."""

    url: Annotated[HttpUrl, AfterValidator(without_password("VISION_SR1_JUDGE_API_KEY"))] | None = Field(
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
            raise SettingError("range", f"{list(self.range)}: the first number must be less than the second")
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
    requests_per_minute: Positive = Field(
        1200, description="Maximum request rate of one client; images and the page's own files are counted apart."
    )


class TracesConfig(Section):
    """The trace store: what every reward saw."""

    url: Annotated[Url, AfterValidator(without_password("VISION_SR1_TRACES_PASSWORD"))] | None = Field(
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
    strict_format: bool = Field(
        False,
        description="The rewards `format` and `requery_format` require each block exactly once and nothing outside "
        "them. Off: the authors' rule, which accepts repeated tags and what is between them.",
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
        own = {VISUAL_OWN: (0.0, 1.0)} if self.requery.questions > 1 else {}
        second = {GRADER_DISAGREEMENT: (0.0, 1.0)} if self.second_grader else {}
        return {
            **RANGES,
            **own,
            **judge,
            **second,
            **{name: function.range for name, function in self.functions.items()},
        }

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
            raise SettingError("judge.url", "set reward.judge.model too: the model's name at that endpoint")
        return self

    @model_validator(mode="after")
    def _judge_is_there_to_grade(self) -> Self:
        if "judge" in self.grader_names and not self.judge.url:
            raise SettingError(
                "judge.url", "the grader `judge` needs it, and reward.judge.model: the model that compares answers"
            )
        return self

    @model_validator(mode="after")
    def _functions_have_names_of_their_own(self) -> Self:
        for name in self.functions:
            setting = f"functions.{name}"
            if name in (*RANGES, JUDGE, VISUAL_OWN, GRADER_DISAGREEMENT):
                raise SettingError(setting, "a built-in reward has this name; choose another")
            if name in BESIDE_REWARDS:
                raise SettingError(setting, "something that is stored beside rewards has this name; choose another")
            if not name.isidentifier():
                raise SettingError(setting, "a name of letters, digits and _ is needed, which begins with no digit")
        return self
