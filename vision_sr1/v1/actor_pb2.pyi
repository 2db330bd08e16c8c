from vision_sr1.v1 import pipeline_pb2 as _pipeline_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UpdateMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPDATE_MODE_IN_FLIGHT: _ClassVar[UpdateMode]
    UPDATE_MODE_WAIT: _ClassVar[UpdateMode]
    UPDATE_MODE_ABORT: _ClassVar[UpdateMode]
UPDATE_MODE_IN_FLIGHT: UpdateMode
UPDATE_MODE_WAIT: UpdateMode
UPDATE_MODE_ABORT: UpdateMode

class GenerateRequest(_message.Message):
    __slots__ = ("schema_version", "request_id", "text", "images", "num_samples", "sampling", "priority", "required_policy_version")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    request_id: str
    text: str
    images: _containers.RepeatedCompositeFieldContainer[_pipeline_pb2.ImageRef]
    num_samples: int
    sampling: _pipeline_pb2.SamplingParams
    priority: int
    required_policy_version: int
    def __init__(self, schema_version: _Optional[int] = ..., request_id: _Optional[str] = ..., text: _Optional[str] = ..., images: _Optional[_Iterable[_Union[_pipeline_pb2.ImageRef, _Mapping]]] = ..., num_samples: _Optional[int] = ..., sampling: _Optional[_Union[_pipeline_pb2.SamplingParams, _Mapping]] = ..., priority: _Optional[int] = ..., required_policy_version: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("sample_index", "sample", "actor_id")
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    sample_index: int
    sample: _pipeline_pb2.Sample
    actor_id: str
    def __init__(self, sample_index: _Optional[int] = ..., sample: _Optional[_Union[_pipeline_pb2.Sample, _Mapping]] = ..., actor_id: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("ask_engine",)
    ASK_ENGINE_FIELD_NUMBER: _ClassVar[int]
    ask_engine: bool
    def __init__(self, ask_engine: _Optional[bool] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("actor", "serving", "prompts_in_flight", "generated_tokens")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    actor: _pipeline_pb2.ActorInfo
    serving: bool
    prompts_in_flight: int
    generated_tokens: int
    def __init__(self, actor: _Optional[_Union[_pipeline_pb2.ActorInfo, _Mapping]] = ..., serving: _Optional[bool] = ..., prompts_in_flight: _Optional[int] = ..., generated_tokens: _Optional[int] = ...) -> None: ...

class ChecksumsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChecksumsResponse(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedCompositeFieldContainer[ParameterDigest]
    def __init__(self, digests: _Optional[_Iterable[_Union[ParameterDigest, _Mapping]]] = ...) -> None: ...

class ParameterDigest(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class SleepRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SleepResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InitWeightTransferRequest(_message.Message):
    __slots__ = ("schema_version", "group_number", "master_address", "master_port", "rank_offset", "world_size", "bucket_bytes", "timeout_s", "delta", "nccl_unique_id")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_NUMBER_FIELD_NUMBER: _ClassVar[int]
    MASTER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MASTER_PORT_FIELD_NUMBER: _ClassVar[int]
    RANK_OFFSET_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    NCCL_UNIQUE_ID_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    group_number: int
    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    bucket_bytes: int
    timeout_s: float
    delta: bool
    nccl_unique_id: bytes
    def __init__(self, schema_version: _Optional[int] = ..., group_number: _Optional[int] = ..., master_address: _Optional[str] = ..., master_port: _Optional[int] = ..., rank_offset: _Optional[int] = ..., world_size: _Optional[int] = ..., bucket_bytes: _Optional[int] = ..., timeout_s: _Optional[float] = ..., delta: _Optional[bool] = ..., nccl_unique_id: _Optional[bytes] = ...) -> None: ...

class InitWeightTransferResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StartWeightUpdateRequest(_message.Message):
    __slots__ = ("mode", "same_weights_grace_s")
    MODE_FIELD_NUMBER: _ClassVar[int]
    SAME_WEIGHTS_GRACE_S_FIELD_NUMBER: _ClassVar[int]
    mode: UpdateMode
    same_weights_grace_s: float
    def __init__(self, mode: _Optional[_Union[UpdateMode, str]] = ..., same_weights_grace_s: _Optional[float] = ...) -> None: ...

class StartWeightUpdateResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ParameterInfo(_message.Message):
    __slots__ = ("name", "dtype", "shape", "changed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    changed: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., changed: _Optional[int] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("config", "weights")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    config: str
    weights: bytes
    def __init__(self, config: _Optional[str] = ..., weights: _Optional[bytes] = ...) -> None: ...

class UpdateWeightsRequest(_message.Message):
    __slots__ = ("parameters", "adapter")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterInfo]
    adapter: Adapter
    def __init__(self, parameters: _Optional[_Iterable[_Union[ParameterInfo, _Mapping]]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...

class UpdateWeightsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinishWeightUpdateRequest(_message.Message):
    __slots__ = ("policy_version", "run")
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    policy_version: int
    run: str
    def __init__(self, policy_version: _Optional[int] = ..., run: _Optional[str] = ...) -> None: ...

class FinishWeightUpdateResponse(_message.Message):
    __slots__ = ("checksum", "frozen_s")
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    FROZEN_S_FIELD_NUMBER: _ClassVar[int]
    checksum: str
    frozen_s: float
    def __init__(self, checksum: _Optional[str] = ..., frozen_s: _Optional[float] = ...) -> None: ...
