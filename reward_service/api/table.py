"""Answers as a table: one row an answer, a plain column each for what it was worth; for pandas, data sets and the like.

The columns are the same in every row of a run, whatever an answer lacks: that is None.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reward_service.api.run_folder import RunFolder
from reward_service.api.views import advantages_of
from reward_service.store import TraceReader
from reward_service.store.reader import FoundTrace
from vision_sr1.client.models import Row
from vision_sr1.config import LearnerConfig
from vision_sr1.pipeline.prompt_properties import purpose_name
from vision_sr1.pipeline.scored_groups import sample_version
from vision_sr1.prompting.response import parse_response


@dataclass(frozen=True)
class TraceTable:
    """The table of one run.

    Attributes:
        folder: of the run: which batch learned from an answer.
        learner: the objective, whose components have advantages.
        rewards: names of all rewards in the run.
    """

    reader: TraceReader
    run: str
    folder: RunFolder
    learner: LearnerConfig
    rewards: Sequence[str]

    @classmethod
    def of(cls, reader: TraceReader, run: str, folder: RunFolder, learner: LearnerConfig) -> "TraceTable":
        """The table of a run as it is now."""
        return cls(reader, run, folder, learner, reader.reward_names(run))

    def rows(self, found: Sequence[FoundTrace]) -> list[Row]:
        """A row for each trace; advantages are relative to its whole group."""
        group_ids = {trace.scored.rollout.prompt.id for trace in found}
        advantages: dict[str, Row] = {}  # by rollout
        for group in self.reader.groups(self.run, sorted(group_ids)).values():
            if purpose_name(group[0].scored.rollout.prompt) == "train":
                for name, values in advantages_of(group, self.learner).items():
                    for member, value in zip(group, values, strict=True):
                        advantages.setdefault(member.scored.rollout.id, {})[name] = value
        return [self._row(trace, advantages.get(trace.scored.rollout.id, {})) for trace in found]

    def _row(self, found: FoundTrace, advantages: Row) -> Row:
        scored = found.scored
        prompt, sample = scored.rollout.prompt, scored.rollout.sample
        parsed = parse_response(scored.response.encode())
        given, explanations = dict(scored.rewards), dict(scored.explanations)
        requery = scored.requeries[0] if scored.requeries else None
        components = [component.name for component in self.learner.components]
        return {
            "id": scored.rollout.id,
            "run": self.run,
            "group_id": prompt.id,
            "purpose": purpose_name(prompt),
            "data_source": prompt.data_source,
            "step": self.folder.step_of(prompt.id),
            "policy_version": sample_version(sample),
            "recorded_at": found.recorded_at,
            "question": prompt.question,
            "reference_answer": prompt.answer,
            "images": [image.sha256 for image in prompt.images],
            "response": scored.response,
            "description": parsed.description,
            "think": _think(scored.response, parsed.think_span),
            "answer": parsed.answer,
            "requery_prompt": requery.prompt if requery else None,
            "requery_response": requery.response if requery else None,
            "requery_answer": requery.answer if requery else None,
            "judge_answer": scored.judgement.answer if scored.HasField("judgement") else None,
            "finish_reason": sample.finish_reason,
            "response_tokens": len(sample.response_token_ids),
            **{f"reward_{name}": given.get(name) for name in self.rewards},
            **{f"explanation_{name}": explanations.get(name) for name in self.rewards},
            **{f"advantage_{name}": advantages.get(name) for name in components},
            "response_token_ids": list(sample.response_token_ids),
            "logprobs": list(sample.logprobs),
        }


def _think(response: str, span: tuple[int, int] | None) -> str | None:
    """The text between the tags, whose places are in bytes and include the tags."""
    if span is None:
        return None
    block = response.encode()[slice(*span)].decode(errors="replace")
    return block[block.index(">") + 1 : block.rindex("<")].strip()
