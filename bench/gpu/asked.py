"""What running actors answer."""

import asyncio
from collections.abc import Sequence

from bench.fleet import Actors
from bench.gpu.compared import Answer, Prompt
from vision_sr1.runtime import rpc
from vision_sr1.streams import Blobs, Keys, connect
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1 import pipeline_pb2 as pb

TIMEOUT_S = 120


def digests_of(actors: Actors) -> dict[str, str]:
    """Of the first actor's parameters."""
    with rpc.channel(actors.infos[0].address, actors.config.tls) as channel:
        reply = actor_pb2_grpc.ActorStub(channel).Checksums(actor_pb2.ChecksumsRequest(), timeout=TIMEOUT_S)
    return {one.name: one.digest for one in reply.digests}


def answers_of(actors: Actors, prompts: Sequence[Prompt], tokens: int) -> list[Answer]:
    """Two answers of at most so many tokens to each prompt, by the first actor, all at once."""
    sampling = pb.SamplingParams(temperature=1.0, top_p=1.0, max_tokens=tokens, seed=1)
    images = asyncio.run(_stored(actors, prompts))
    answers = []
    with rpc.channel(actors.infos[0].address, actors.config.tls) as channel:
        calls = [
            actor_pb2_grpc.ActorStub(channel).Generate(
                actor_pb2.GenerateRequest(
                    schema_version=1,
                    request_id=f"bench/{number}",
                    text=prompt.text,
                    images=images[number],
                    num_samples=2,
                    sampling=sampling,
                ),
                timeout=TIMEOUT_S,
            )
            for number, prompt in enumerate(prompts)
        ]
        for prompt, call in zip(prompts, calls, strict=True):
            answers += [Answer(prompt, reply.sample) for reply in call]
    return answers


async def _stored(actors: Actors, prompts: Sequence[Prompt]) -> list[list[pb.ImageRef]]:
    redis = await connect(actors.config.streams)
    blobs = Blobs(redis, Keys(actors.config.run.name), 600)
    refs = [[await blobs.put(image) for image in prompt.images] for prompt in prompts]
    await redis.aclose()
    return refs
