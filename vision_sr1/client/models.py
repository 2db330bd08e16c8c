"""What the REST API takes and gives: one definition for the service and its clients."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Text = Annotated[str, Field(max_length=200_000)]
Purpose = Literal["train", "evaluation"]
Row = dict[str, Any]  # of the table of answers, by column: text, numbers, lists of them, None
Pattern = Literal["both_wrong", "sufficient_only", "shortcut", "both_right"]
GroupOrder = Literal["newest", "oldest", "most_right", "most_wrong", "most_shortcuts"]


class RewardView(BaseModel):
    """One reward and why it is what it is."""

    value: float | None = Field(description="Null where it is missing: nothing is learned from it.")
    explanation: str


class RequeryView(BaseModel):
    """The second rollout: what the policy was asked, and what it said, without the image."""

    question: str | None = Field(description="A further question about the images; null for the rollout's own.")
    reference_answer: str | None = Field(description="To that question; null for the rollout's own.")
    prompt: str
    response: str
    answer: str
    policy_version: int
    same_weights: bool = Field(description="Answered by the policy version that wrote the rollout.")
    shared: bool = Field(description="Asked for another rollout of the group, whose description is the same.")
    rewards: dict[str, float]
    tokens: int


class JudgementView(BaseModel):
    """What another model answered to the re-query's prompt."""

    model: str
    response: str
    answer: str


class SpanView(BaseModel):
    """Tokens [start, end) of the response."""

    start: int
    end: int


class TraceView(BaseModel):
    """One rollout, its rewards and what they saw."""

    id: str
    run: str
    group_id: str
    prompt_key: str = Field(description="The same for the same question, answer and images; see /v1/prompts/{key}.")
    purpose: str
    data_source: str
    policy_version: int
    recorded_at: float = Field(description="Seconds since the epoch.")
    question: str
    reference_answer: str
    images: list[str] = Field(description="SHA-256 of each; see /v1/images/{sha}.")
    response: str
    answer_text: str = Field(description="Of its last box; empty without one.")
    rewards: dict[str, RewardView]
    description: SpanView | None
    think: SpanView | None
    answer: SpanView | None
    requeries: list[RequeryView] = Field(description="Empty where the response had no description to ask about.")
    judgement: JudgementView | None = Field(description="Null without a judge.")
    tokens: int
    finish_reason: str
    actor_id: str
    seconds: float = Field(description="From taking the prompt to the finished rollout.")
    trace_id: str = Field(description="By which the logs of all services name this prompt's way; W3C trace context.")


class StepView(BaseModel):
    """One batch of training."""

    step: int
    policy_version: int = Field(description="That it made.")
    groups: list[str] = Field(description="Ids of the prompts it learned from.")
    rollouts: int = Field(description="How many answers to them it learned from.")


class StepPage(BaseModel):
    """One page of batches, the last first."""

    steps: list[StepView]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class TracePage(BaseModel):
    """One page of traces, newest first."""

    traces: list[TraceView]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class RowPage(BaseModel):
    """One page of the table of answers, newest first: the same columns in every row, null where there is no value."""

    rows: list[Row]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class MemberView(BaseModel):
    """One answer of a group, as a list of groups shows it."""

    id: str
    policy_version: int
    answer: str
    rewards: dict[str, float | None]
    truncated: bool = Field(description="Whether the response ended at its token limit.")


class GroupSummary(BaseModel):
    """A prompt and what its answers were worth."""

    id: str
    run: str
    purpose: str
    data_source: str
    step: int | None = Field(description="Batch that learned from it; null before, and for evaluation.")
    recorded_at: float = Field(description="When its newest trace was, seconds since the epoch.")
    question: str
    reference_answer: str
    images: list[str]
    prompt_key: str
    right: int = Field(description="How many of the answers are right.")
    has_signal: bool | None = Field(
        description="Whether some component of the objective learns from it: not all advantages are 0. Null for "
        "evaluation."
    )
    members: list[MemberView]


class GroupPage(BaseModel):
    """One page of groups."""

    groups: list[GroupSummary]
    count: int | None = Field(description="How many groups fit; 1000: that many or more. Null behind the first page.")
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class GroupView(BaseModel):
    """All rollouts of one prompt."""

    id: str
    run: str
    prompt_key: str
    step: int | None = Field(description="Batch that learned from it; null before, and for evaluation.")
    has_signal: bool | None = Field(description="As in GroupSummary.")
    traces: list[TraceView]
    advantages: dict[str, list[float | None]] = Field(
        description="By component of the objective, one for each trace; null where its reward is missing. "
        "Of a component with gdpo: over the deviation of the group instead of the batch."
    )
    requery_advantages: dict[str, list[list[float | None]]] = Field(
        description="By component that trains re-queries, those of each trace; null where the reward is missing."
    )
    tokens: dict[str, list[str]] = Field(description="By component, the token sets that it trains.")


class TokenView(BaseModel):
    """One token of a response."""

    text: str = Field(description="U+FFFD where a character is cut by the token's boundary.")
    logprob: float = Field(description="Under the distribution it was sampled from.")
    policy_version: int
    segment: str = Field(description="`description`, `think`, `answer`, or empty between them.")


class TokensView(BaseModel):
    """A response token by token."""

    id: str
    tokens: list[TokenView]


class DiffPart(BaseModel):
    """Some words of two texts."""

    kind: Literal["same", "removed", "added"]
    text: str


class WordDiff(BaseModel):
    """The words in which a response differs from another."""

    id: str
    base: str = Field(description="The trace it is compared with.")
    parts: list[DiffPart]


class PromptPart(BaseModel):
    """Text of a prompt, or a control token such as an image's."""

    text: str
    count: int = Field(description="How often the control token comes in a row; 1 of text.")
    is_control: bool


class RenderedPrompt(BaseModel):
    """A prompt as the policy received it."""

    tokens: int = Field(description="0: not recorded.")
    parts: list[PromptPart]


class TracePrompts(BaseModel):
    """The prompts of a trace as the policy received them."""

    id: str
    prompt: RenderedPrompt
    requeries: list[RenderedPrompt] = Field(description="One for each re-query of the trace.")


class PromptAnswer(BaseModel):
    """One answer to a prompt."""

    id: str
    group_id: str
    purpose: str
    description: str
    answer: str
    requery_answer: str = Field(description="From the description alone; empty without a re-query.")
    rewards: dict[str, float | None]
    truncated: bool


class PromptVersion(BaseModel):
    """What one policy version answered to a prompt."""

    policy_version: int
    count: int = Field(description="Answers; the first 64 are listed.")
    answers: list[PromptAnswer] = Field(description="Those of evaluation first.")
    changes: list[DiffPart] | None = Field(
        description="From the first answer's description at the version before to the first answer's here; null at the "
        "first version."
    )


class PromptHistory(BaseModel):
    """A prompt at the policy versions that answered it, the oldest first."""

    key: str
    run: str
    data_source: str
    question: str
    reference_answer: str
    images: list[str] = Field(description="SHA-256 of each; see /v1/images/{sha}.")
    versions: list[PromptVersion]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class RunView(BaseModel):
    """A run in the store."""

    name: str
    is_served: bool = Field(description="Whether this service belongs to it.")
    can_rescore: bool = Field(description="Whether its recorded answers can be scored again here.")
    recorded_from: float | None = Field(description="Its oldest trace, seconds since the epoch.")
    recorded_to: float | None
    data_sources: list[str]
    purposes: list[Purpose] = Field(description="Of its traces.")
    policy_versions: list[int] = Field(description="The least and the greatest.")
    rollouts: int


class BarView(BaseModel):
    """How many values lay in [low, high]."""

    low: float
    high: float
    count: int


class RewardStatistics(BaseModel):
    """One reward over many rollouts."""

    mean: float | None = Field(description="Of those that are not missing; null without any.")
    count: int
    missing: int
    range: tuple[float, float] = Field(description="The least and the greatest value that it can have.")
    distribution: list[BarView]


class Curve(BaseModel):
    """Means by policy version."""

    policy_versions: list[int]
    rewards: dict[str, list[float | None]] = Field(description="By name, one for each version; `response_tokens` too.")
    shortcut_rate: list[float | None] = Field(
        description="Share of all answers that are right though no re-query's was (the paper's language shortcut rate)."
    )
    disagreement: list[float | None] = Field(description="Share of answers whose accuracy and visual reward differ.")
    rollouts: list[int]


class SourceStatistics(BaseModel):
    """One data source's rewards."""

    data_source: str
    rewards: dict[str, RewardStatistics]
    outcomes: dict[str, int] = Field(description="Answers by what they and their descriptions are worth.")
    shortcut_rate: float | None
    disagreement: float | None
    curve: Curve


class Statistics(BaseModel):
    """All rollouts of a run, those whose traces were not kept included."""

    run: str
    purpose: str
    overall: SourceStatistics
    data_sources: list[SourceStatistics]


class ScalarsView(BaseModel):
    """The learner's own curves, such as KL and gradient norms."""

    run: str
    steps: list[int]
    scalars: dict[str, list[float | None]] = Field(description="By name, one for each step; null where it has none.")


class Said(BaseModel):
    """One of a run's answers to a prompt."""

    group_id: str
    policy_version: int
    description: str
    answer: str
    requery_answer: str = Field(description="From the description alone; empty without a re-query.")


class Difference(BaseModel):
    """A prompt that both runs were asked, and what they do not have in common."""

    groups: tuple[str, str] = Field(description="Its group in either run.")
    answers: tuple[int, int]
    rewards: dict[str, tuple[float | None, float | None]]
    data_source: str
    question: str
    reference_answer: str
    images: list[str] = Field(description="SHA-256 of each.")
    said: tuple[Said, Said] = Field(description="The first answer of either run.")


class SourceComparison(BaseModel):
    """Two runs on the prompts of a data source that both were asked."""

    prompts: int
    means: dict[str, tuple[float | None, float | None]] = Field(description="Over those prompts.")
    better: dict[str, tuple[int, int]] = Field(description="On how many prompts either run has the higher mean.")


class Comparison(SourceComparison):
    """Two runs on the prompts that both were asked: the same question, answer and images."""

    runs: tuple[str, str]
    purpose: str = Field(description="Empty: both.")
    versions: tuple[int | None, int | None] = Field(description="Of either run; null: more than one.")
    data_sources: dict[str, SourceComparison]
    better_in_second: int = Field(description="Prompts whose accuracy and visual reward together are higher there.")
    worse_in_second: int
    mixed_in_second: int = Field(description="Prompts of which one is as much higher as the other is lower.")
    differences: list[Difference] = Field(
        description="Prompts whose accuracy and visual reward differ most: up to 50 of each of these kinds."
    )


class StreamView(BaseModel):
    """One stream."""

    name: str
    depth: int = Field(description="Entries, those being worked on included.")
    age_s: float = Field(description="Of the oldest.")
    pending: int = Field(description="Delivered and not committed.")
    dead: int


class ActorView(BaseModel):
    """One actor that has announced itself."""

    id: str
    address: str
    device: str
    policy_version: int = Field(description="-1 before the first weights.")


class LetterView(BaseModel):
    """An entry that could not be handled."""

    name: str
    error: str
    deliveries: int
    age_s: float


class Pipeline(BaseModel):
    """What is on the streams, who answers, and the dead letters."""

    streams: list[StreamView]
    actors: list[ActorView]
    published_version: int | None
    dead_letters: list[LetterView] = Field(description="The newest.")


class ScoreRequest(BaseModel):
    """A response to score."""

    question: Text = ""
    reference_answer: Text
    response: Text
    data_source: Annotated[str, Field(max_length=256)] = ""


class RewardChange(BaseModel):
    """One reward, as it was recorded and as it is given now; null where it was not given then."""

    before: RewardView | None
    now: RewardView | None


class Rescored(BaseModel):
    """A recorded response scored again."""

    id: str
    rewards: dict[str, RewardChange]
    changed: list[str] = Field(description="Recorded rewards whose value differs, or that are no longer given.")
    asked_again: bool = Field(description="Whether re-query and judge were asked anew.")
