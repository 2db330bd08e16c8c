"""gRPC options of all services: stalled peers are found, and adapters fit into a message."""

_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))

CLIENT = (
    *_UNLIMITED,
    ("grpc.keepalive_time_ms", 5_000),  # a call to a peer that leaves a ping unanswered ...
    ("grpc.keepalive_timeout_ms", 5_000),  # ... for so long fails as UNAVAILABLE
    ("grpc.http2.ping_timeout_ms", 5_000),
)
SERVER = (*_UNLIMITED, ("grpc.http2.max_ping_strikes", 0))  # clients ping while they wait
