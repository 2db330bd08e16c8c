"""Routes: scoring a response now, and scoring a recorded one again."""

import time

from fastapi import APIRouter, HTTPException

from reward_service.api.context import ApiContext
from reward_service.api.problems import problem_responses
from reward_service.api.searches import Run
from reward_service.api.traces import found_trace
from reward_service.api.views import reward_views, scored_view
from reward_service.scoring import Scorer
from vision_sr1.client.models import Rescored, RewardChange, ScoreRequest, TraceView
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.prompting.prompt_template import IMAGE_MARKER
from vision_sr1.streams import Keys
from vision_sr1.v1 import pipeline_pb2 as pb


def scoring_routes(api: ApiContext) -> APIRouter:
    """Debugging a reward on one's own data."""
    routes = APIRouter(prefix="/v1", tags=["scoring"])

    def scorer_of(run: str) -> Scorer:
        if (scorer := api.scorer_of(run)) is None:
            raise HTTPException(
                503, "nothing is scored here: the run is over, and its tokenizer or a reward function is not here"
            )
        return scorer

    @routes.post("/score", responses=problem_responses(413, 422, 503))
    async def score(request: ScoreRequest) -> TraceView:
        """Scores a response as a rollout of this run would be; its re-query goes to any actor that is alive."""
        asked = scorer_of(run := await api.runs.served())
        question = request.question
        if IMAGE_MARKER not in question:  # a response about images, as the run's are
            question = IMAGE_MARKER + question
        rollout = pb.Rollout(
            id="score/0/0",
            prompt=pb.Prompt(
                id="score/0",
                run=run,
                question=question,
                answer=request.reference_answer,
                data_source=request.data_source,
                sampling=pb.SamplingParams(
                    temperature=api.config.sampling.temperature,
                    top_p=api.config.sampling.top_p,
                    max_tokens=api.config.sampling.max_tokens,
                ),
            ),
            sample=pb.Sample(response_token_ids=asked.token_ids(request.response), finish_reason="stop"),
        )
        actors = [] if api.redis is None else await Fleet(api.redis, Keys(api.config.streams_name)).alive()
        actor = max(actors, key=lambda actor: actor.policy_version, default=pb.ActorInfo(policy_version=-1))
        rollout.actor_id, rollout.actor_address = actor.id, actor.address
        rollout.sample.versions.add(policy_version=actor.policy_version, end=len(rollout.sample.response_token_ids))
        return scored_view(await asked.score(rollout), run, time.time())

    @routes.post("/traces/{trace_id:path}/rescore", responses=problem_responses(404, 422, 503))
    async def rescore(trace_id: str, run: Run = None, ask_again: bool = False) -> Rescored:
        """Scores a recorded response with this service's rewards and graders, and shows what differs.

        What re-query and judge answered is graded as it was recorded, unless they are to be asked again.
        """
        asked = scorer_of(await api.runs.named(run))
        found = await found_trace(api, trace_id, run)
        scored = await asked.score(found.scored.rollout, answered=None if ask_again else found.scored)
        before, now = reward_views(found.scored), reward_views(scored)
        changes = {name: RewardChange(before=before.get(name), now=now.get(name)) for name in sorted({*before, *now})}
        changed = [name for name, given in before.items() if name not in now or now[name].value != given.value]
        return Rescored(id=trace_id, rewards=changes, changed=changed, asked_again=ask_again)

    return routes
