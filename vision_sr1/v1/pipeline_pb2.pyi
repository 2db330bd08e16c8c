from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_TRAIN: _ClassVar[Purpose]
    PURPOSE_EVALUATION: _ClassVar[Purpose]
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_TRAIN: Purpose
PURPOSE_EVALUATION: Purpose

class SamplingParams(_message.Message):
    __slots__ = ("temperature", "top_p", "max_tokens", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., max_tokens: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class ImageRef(_message.Message):
    __slots__ = ("sha256", "media_type")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    media_type: str
    def __init__(self, sha256: _Optional[str] = ..., media_type: _Optional[str] = ...) -> None: ...

class FurtherQuestion(_message.Message):
    __slots__ = ("question", "answer", "data_source")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    DATA_SOURCE_FIELD_NUMBER: _ClassVar[int]
    question: str
    answer: str
    data_source: str
    def __init__(self, question: _Optional[str] = ..., answer: _Optional[str] = ..., data_source: _Optional[str] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("schema_version", "id", "run", "purpose", "question", "answer", "data_source", "images", "group_size", "sampling", "policy_version", "issued_at", "traceparent", "further_questions")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    DATA_SOURCE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    FURTHER_QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    id: str
    run: str
    purpose: Purpose
    question: str
    answer: str
    data_source: str
    images: _containers.RepeatedCompositeFieldContainer[ImageRef]
    group_size: int
    sampling: SamplingParams
    policy_version: int
    issued_at: float
    traceparent: str
    further_questions: _containers.RepeatedCompositeFieldContainer[FurtherQuestion]
    def __init__(self, schema_version: _Optional[int] = ..., id: _Optional[str] = ..., run: _Optional[str] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., question: _Optional[str] = ..., answer: _Optional[str] = ..., data_source: _Optional[str] = ..., images: _Optional[_Iterable[_Union[ImageRef, _Mapping]]] = ..., group_size: _Optional[int] = ..., sampling: _Optional[_Union[SamplingParams, _Mapping]] = ..., policy_version: _Optional[int] = ..., issued_at: _Optional[float] = ..., traceparent: _Optional[str] = ..., further_questions: _Optional[_Iterable[_Union[FurtherQuestion, _Mapping]]] = ...) -> None: ...

class VersionSpan(_message.Message):
    __slots__ = ("policy_version", "start", "end")
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    policy_version: int
    start: int
    end: int
    def __init__(self, policy_version: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("prompt_token_ids", "response_token_ids", "logprobs", "versions", "finish_reason")
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    response_token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    versions: _containers.RepeatedCompositeFieldContainer[VersionSpan]
    finish_reason: str
    def __init__(self, prompt_token_ids: _Optional[_Iterable[int]] = ..., response_token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., versions: _Optional[_Iterable[_Union[VersionSpan, _Mapping]]] = ..., finish_reason: _Optional[str] = ...) -> None: ...

class TokenSpan(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ResponseParts(_message.Message):
    __slots__ = ("format", "description", "answer", "description_span", "think_span", "answer_span")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_SPAN_FIELD_NUMBER: _ClassVar[int]
    THINK_SPAN_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SPAN_FIELD_NUMBER: _ClassVar[int]
    format: str
    description: str
    answer: str
    description_span: TokenSpan
    think_span: TokenSpan
    answer_span: TokenSpan
    def __init__(self, format: _Optional[str] = ..., description: _Optional[str] = ..., answer: _Optional[str] = ..., description_span: _Optional[_Union[TokenSpan, _Mapping]] = ..., think_span: _Optional[_Union[TokenSpan, _Mapping]] = ..., answer_span: _Optional[_Union[TokenSpan, _Mapping]] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("schema_version", "id", "sample_index", "prompt", "sample", "actor_id", "actor_address", "started_at", "finished_at", "parts", "requery_id")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    REQUERY_ID_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    id: str
    sample_index: int
    prompt: Prompt
    sample: Sample
    actor_id: str
    actor_address: str
    started_at: float
    finished_at: float
    parts: ResponseParts
    requery_id: str
    def __init__(self, schema_version: _Optional[int] = ..., id: _Optional[str] = ..., sample_index: _Optional[int] = ..., prompt: _Optional[_Union[Prompt, _Mapping]] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ..., actor_id: _Optional[str] = ..., actor_address: _Optional[str] = ..., started_at: _Optional[float] = ..., finished_at: _Optional[float] = ..., parts: _Optional[_Union[ResponseParts, _Mapping]] = ..., requery_id: _Optional[str] = ...) -> None: ...

class Requery(_message.Message):
    __slots__ = ("prompt", "sample", "response", "answer", "actor_id", "policy_version", "rewards", "shared", "question")
    class RewardsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    sample: Sample
    response: str
    answer: str
    actor_id: str
    policy_version: int
    rewards: _containers.ScalarMap[str, float]
    shared: bool
    question: int
    def __init__(self, prompt: _Optional[str] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ..., response: _Optional[str] = ..., answer: _Optional[str] = ..., actor_id: _Optional[str] = ..., policy_version: _Optional[int] = ..., rewards: _Optional[_Mapping[str, float]] = ..., shared: _Optional[bool] = ..., question: _Optional[int] = ...) -> None: ...

class Judgement(_message.Message):
    __slots__ = ("model", "response", "answer")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    model: str
    response: str
    answer: str
    def __init__(self, model: _Optional[str] = ..., response: _Optional[str] = ..., answer: _Optional[str] = ...) -> None: ...

class ScoredRollout(_message.Message):
    __slots__ = ("rollout", "response", "rewards", "description", "think", "answer", "requeries", "judgement", "explanations", "missing")
    class RewardsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ExplanationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    THINK_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REQUERIES_FIELD_NUMBER: _ClassVar[int]
    JUDGEMENT_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    response: str
    rewards: _containers.ScalarMap[str, float]
    description: TokenSpan
    think: TokenSpan
    answer: TokenSpan
    requeries: _containers.RepeatedCompositeFieldContainer[Requery]
    judgement: Judgement
    explanations: _containers.ScalarMap[str, str]
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., response: _Optional[str] = ..., rewards: _Optional[_Mapping[str, float]] = ..., description: _Optional[_Union[TokenSpan, _Mapping]] = ..., think: _Optional[_Union[TokenSpan, _Mapping]] = ..., answer: _Optional[_Union[TokenSpan, _Mapping]] = ..., requeries: _Optional[_Iterable[_Union[Requery, _Mapping]]] = ..., judgement: _Optional[_Union[Judgement, _Mapping]] = ..., explanations: _Optional[_Mapping[str, str]] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class ScoredGroup(_message.Message):
    __slots__ = ("schema_version", "id", "purpose", "rollouts")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    id: str
    purpose: Purpose
    rollouts: _containers.RepeatedCompositeFieldContainer[ScoredRollout]
    def __init__(self, schema_version: _Optional[int] = ..., id: _Optional[str] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., rollouts: _Optional[_Iterable[_Union[ScoredRollout, _Mapping]]] = ...) -> None: ...

class ActorInfo(_message.Message):
    __slots__ = ("schema_version", "id", "address", "device", "weight_transfer", "world_size", "capacity", "policy_version", "dtype", "beat")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_TRANSFER_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    id: str
    address: str
    device: str
    weight_transfer: str
    world_size: int
    capacity: int
    policy_version: int
    dtype: str
    beat: int
    def __init__(self, schema_version: _Optional[int] = ..., id: _Optional[str] = ..., address: _Optional[str] = ..., device: _Optional[str] = ..., weight_transfer: _Optional[str] = ..., world_size: _Optional[int] = ..., capacity: _Optional[int] = ..., policy_version: _Optional[int] = ..., dtype: _Optional[str] = ..., beat: _Optional[int] = ...) -> None: ...

class PublishedWeights(_message.Message):
    __slots__ = ("schema_version", "policy_version", "folder", "run", "sha256")
    class Sha256Entry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    policy_version: int
    folder: str
    run: str
    sha256: _containers.ScalarMap[str, str]
    def __init__(self, schema_version: _Optional[int] = ..., policy_version: _Optional[int] = ..., folder: _Optional[str] = ..., run: _Optional[str] = ..., sha256: _Optional[_Mapping[str, str]] = ...) -> None: ...
