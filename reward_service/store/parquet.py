"""Traces as a parquet file, for notebooks and the data sets library."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reward_service.store.reader import FoundTrace, TraceFilter, TraceReader
from vision_sr1.pipeline.prompt_properties import purpose_name
from vision_sr1.pipeline.scored_groups import sample_version
from vision_sr1.run_folder.atomic import written_whole

AT_ONCE = 500

_NUMBERS = pa.map_(pa.string(), pa.float64())
_REQUERY = pa.struct(
    {
        "prompt": pa.string(),
        "response": pa.string(),
        "answer": pa.string(),
        "policy_version": pa.int64(),
        "rewards": _NUMBERS,
    }
)
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "run": pa.string(),
        "group_id": pa.string(),
        "purpose": pa.string(),
        "data_source": pa.string(),
        "policy_version": pa.int64(),
        "recorded_at": pa.float64(),
        "question": pa.string(),
        "reference_answer": pa.string(),
        "images": pa.list_(pa.string()),
        "response": pa.string(),
        "response_token_ids": pa.list_(pa.uint32()),
        "logprobs": pa.list_(pa.float32()),
        "finish_reason": pa.string(),
        "rewards": _NUMBERS,
        "missing": pa.list_(pa.string()),
        "explanations": pa.map_(pa.string(), pa.string()),
        "requeries": pa.list_(_REQUERY),
    }
)


def export_traces(reader: TraceReader, wanted: TraceFilter, path: Path) -> int:
    """Writes the traces that fit, oldest first; returns how many. The file appears when it is whole."""
    count, last = 0, 0
    with written_whole(path) as place, pq.ParquetWriter(place, SCHEMA, compression="zstd") as writer:
        while found := reader.after(wanted, last, AT_ONCE):
            writer.write_table(pa.Table.from_pylist([_row(trace) for trace in found], SCHEMA))
            count, last = count + len(found), found[-1].sequence
    return count


def _row(found: FoundTrace) -> dict[str, object]:
    scored = found.scored
    prompt, sample = scored.rollout.prompt, scored.rollout.sample
    return {
        "id": scored.rollout.id,
        "run": prompt.run,
        "group_id": prompt.id,
        "purpose": purpose_name(prompt),
        "data_source": prompt.data_source,
        "policy_version": sample_version(sample),
        "recorded_at": found.recorded_at,
        "question": prompt.question,
        "reference_answer": prompt.answer,
        "images": [image.sha256 for image in prompt.images],
        "response": scored.response,
        "response_token_ids": list(sample.response_token_ids),
        "logprobs": list(sample.logprobs),
        "finish_reason": sample.finish_reason,
        "rewards": sorted(scored.rewards.items()),
        "missing": list(scored.missing),
        "explanations": sorted(scored.explanations.items()),
        "requeries": [
            {
                "prompt": requery.prompt,
                "response": requery.response,
                "answer": requery.answer,
                "policy_version": requery.policy_version,
                "rewards": sorted(requery.rewards.items()),
            }
            for requery in scored.requeries
        ],
    }
