"""Prompts as they are issued to the actors, for training and for evaluation."""

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from vision_sr1.config import Config
from vision_sr1.data import FurtherQuestion, QuestionRow
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.runtime.tracing import new_traceparent
from vision_sr1.v1 import pipeline_pb2 as pb


def prompt_message(
    config: Config, prompt_id: str, row: QuestionRow, images: list[pb.ImageRef], purpose: "pb.Purpose", version: int
) -> pb.Prompt:
    """A prompt of a row: in training answered `sampling.group_size` times, in evaluation once and greedily.

    In evaluation its descriptions are asked its own question alone.

    Args:
        images: of the row, in the blob store.
        version: of the policy, or a later one, that is to answer.
    """
    sampling = config.sampling
    evaluation = purpose == pb.PURPOSE_EVALUATION
    return pb.Prompt(
        schema_version=SCHEMA_VERSION,
        id=prompt_id,
        run=config.run.name,
        purpose=purpose,
        question=row.question,
        answer=row.answer,
        data_source=row.data_source,
        images=images,
        group_size=1 if evaluation else sampling.group_size,
        sampling=pb.SamplingParams(
            temperature=0.0 if evaluation else sampling.temperature,
            top_p=1.0 if evaluation else sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling_seed(config.run.seed, prompt_id) if sampling.deterministic_sampling else None,
        ),
        policy_version=version,
        issued_at=time.time(),
        traceparent=new_traceparent("issue", prompt=prompt_id),
        further_questions=[]
        if evaluation
        else [
            pb.FurtherQuestion(question=further.question, answer=further.answer, data_source=further.data_source)
            for further in _drawn(row.further_questions, config, prompt_id)
        ],
    )


def _drawn(given: Sequence[FurtherQuestion], config: Config, prompt_id: str) -> list[FurtherQuestion]:
    """`reward.requery.questions` - 1 of a row's further questions, or all: the same whenever the prompt is issued."""
    count = min(config.reward.requery.questions - 1, len(given))
    seed = sampling_seed(config.run.seed, f"{prompt_id}/questions")
    places = np.random.default_rng(seed).permutation(len(given))[:count]
    return [given[place] for place in sorted(places.tolist())]


def sampling_seed(run_seed: int, prompt_id: str) -> int:
    """Seed of a prompt's first sample; the others count on from it."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{prompt_id}".encode()).digest()[:4], "big")
