"""Routes: runs, distributions and curves of rewards, and two runs on the same prompts."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from reward_service.api.context import ApiContext
from reward_service.api.problems import problem_responses
from reward_service.api.searches import Purpose, Run, Version
from reward_service.api.views import said_view
from reward_service.store import SEARCHED, TraceFilter, TraceReader
from reward_service.store.reader import FoundTrace, PromptMean, RewardBin
from reward_service.store.tables import OUTCOMES
from vision_sr1.client.models import (
    BarView,
    Comparison,
    Curve,
    Difference,
    RewardStatistics,
    RunView,
    ScalarsView,
    SourceComparison,
    SourceStatistics,
    Statistics,
)
from vision_sr1.client.models import Purpose as PurposeName

Pair = tuple[PromptMean, PromptMean]  # the same prompt in two runs

ACCURACY_AND_VISUAL = "outcome"
DIFFERENCES = 50  # prompts shown


def statistics_routes(api: ApiContext) -> APIRouter:
    """What many traces say together."""
    routes = APIRouter(prefix="/v1", tags=["statistics"])

    @routes.get("/runs", responses=problem_responses(422))
    async def list_runs() -> list[RunView]:
        """Runs in the store."""
        served = await api.runs.served()
        return [await run_in_threadpool(_run, api, name, served) for name in await run_in_threadpool(api.reader.runs)]

    @routes.get("/statistics", responses=problem_responses(404, 422))
    async def statistics(run: Run = None, purpose: Purpose = "train", data_source: str | None = None) -> Statistics:
        """Distributions and curves of every reward, overall and by data source."""
        name, asked = await api.runs.named(run), purpose or "train"
        bins = await run_in_threadpool(api.reader.counts, name, asked, data_source)
        by_source: dict[str, list[RewardBin]] = defaultdict(list)
        for found in bins:
            by_source[found.data_source].append(found)
        sources = [_source(source, of_source) for source, of_source in sorted(by_source.items())]
        return Statistics(run=name, purpose=asked, overall=_source("", bins), data_sources=sources)

    @routes.get("/scalars", responses=problem_responses(404, 422))
    async def scalars(names: Annotated[list[str] | None, Query(max_length=100)] = None, run: Run = None) -> ScalarsView:
        """The learner's curves of a run; of those named, or all."""
        name = await api.runs.named(run)
        points = await run_in_threadpool(api.runs.folder(name).points)
        known = sorted({name for point in points for name in point} - {"step", "time"})
        shown = known if names is None else [name for name in known if name in names]
        steps = [int(point["step"]) for point in points]
        return ScalarsView(
            run=name, steps=steps, scalars={scalar: [point.get(scalar) for point in points] for scalar in shown}
        )

    @routes.get("/comparison", responses=problem_responses(404, 422))
    async def comparison(
        other: Annotated[str, Query(description="The run to compare with.")],
        run: Run = None,
        purpose: Annotated[PurposeName | None, Query(description="Default: evaluation, where both have any.")] = None,
        min_version: Version = None,
        max_version: Version = None,
        data_source: str | None = None,
    ) -> Comparison:
        """Two runs on the prompts that both were asked; by default held-out ones, at the newest version of each."""
        names = (await api.runs.named(run), await api.runs.named(other))
        versions = [await run_in_threadpool(api.reader.newest_version, name, "evaluation") for name in names]
        if purpose is None and None not in versions:
            purpose = "evaluation"
        at_newest = purpose == "evaluation" and min_version is None and max_version is None
        wanted = [
            TraceFilter(
                run=name,
                purpose=purpose,
                data_source=data_source,
                min_version=newest if at_newest else min_version,
                max_version=newest if at_newest else max_version,
            )
            for name, newest in zip(names, versions, strict=True)
        ]
        return await run_in_threadpool(_compared, api.reader, wanted[0], wanted[1])

    return routes


def _run(api: ApiContext, name: str, served: str) -> RunView:
    bins = api.reader.counts(name, names=["response_tokens"])
    span = api.reader.span(name)
    versions = [found.policy_version for found in bins]
    return RunView(
        name=name,
        is_served=name == served,
        can_rescore=api.scorer_of(name) is not None,
        recorded_from=span[0] if span else None,
        recorded_to=span[1] if span else None,
        data_sources=sorted({found.data_source for found in bins}),
        purposes=sorted({found.purpose for found in bins}),
        policy_versions=[min(versions), max(versions)] if versions else [],
        rollouts=sum(found.count for found in bins),
    )


def _source(name: str, bins: list[RewardBin]) -> SourceStatistics:
    by_name: dict[str, list[RewardBin]] = defaultdict(list)
    for found in bins:
        by_name[found.name].append(found)
    outcomes = by_name.pop(ACCURACY_AND_VISUAL, [])
    return SourceStatistics(
        data_source=name,
        rewards={reward: _reward(found) for reward, found in sorted(by_name.items())},
        outcomes=_outcomes(outcomes),
        shortcut_rate=_share(outcomes, "shortcut"),
        disagreement=_share(outcomes, "shortcut", "sufficient_only"),
        curve=_curve(by_name, outcomes),
    )


def _reward(bins: list[RewardBin]) -> RewardStatistics:
    given = [found for found in bins if not found.is_missing]
    bars: dict[tuple[float, float], int] = defaultdict(int)
    for found in given:
        bars[(found.low, found.high)] += found.count
    return RewardStatistics(
        mean=_mean(bins),
        count=sum(found.count for found in given),
        missing=sum(found.count for found in bins if found.is_missing),
        range=bins[0].range,
        distribution=[BarView(low=low, high=high, count=count) for (low, high), count in sorted(bars.items())],
    )


def _curve(by_name: dict[str, list[RewardBin]], outcomes: list[RewardBin]) -> Curve:
    versions = sorted({found.policy_version for bins in by_name.values() for found in bins})

    def at(bins: list[RewardBin]) -> list[list[RewardBin]]:
        by_version: dict[int, list[RewardBin]] = defaultdict(list)
        for found in bins:
            by_version[found.policy_version].append(found)
        return [by_version[version] for version in versions]

    return Curve(
        policy_versions=versions,
        rewards={name: [_mean(found) for found in at(bins)] for name, bins in sorted(by_name.items())},
        shortcut_rate=[_share(found, "shortcut") for found in at(outcomes)],
        disagreement=[_share(found, "shortcut", "sufficient_only") for found in at(outcomes)],
        rollouts=[sum(b.count for b in found) for found in at(by_name.get("response_tokens", []))],
    )


def _mean(bins: Iterable[RewardBin]) -> float | None:
    given = [found for found in bins if not found.is_missing]
    count = sum(found.count for found in given)
    return sum(found.total for found in given) / count if count else None


def _outcomes(bins: list[RewardBin]) -> dict[str, int]:
    counts: dict[str, int] = {str(outcome): 0 for outcome in OUTCOMES}
    for found in bins:
        if not found.is_missing:
            counts[OUTCOMES[round(found.low)]] += found.count
    return counts


def _share(bins: list[RewardBin], *outcomes: str) -> float | None:
    counts = _outcomes(bins)
    total = sum(counts.values())
    return sum(counts[outcome] for outcome in outcomes) / total if total else None


def _compared(reader: TraceReader, wanted: TraceFilter, other: TraceFilter) -> Comparison:
    first, second = reader.prompt_means(wanted), reader.prompt_means(other)
    shared = [(first[key], second[key]) for key in sorted(first.keys() & second.keys())]
    by_source: dict[str, list[Pair]] = defaultdict(list)
    for pair in shared:
        by_source[pair[0].data_source].append(pair)
    by_sign: dict[int, list[Pair]] = {1: [], -1: [], 0: []}
    for pair in sorted((pair for pair in shared if _distance(pair)), key=_importance, reverse=True):
        by_sign[_sign(pair)].append(pair)
    differing = [pair for pairs in by_sign.values() for pair in pairs[:DIFFERENCES]]
    groups = [
        reader.groups(asked.run, [pair[side].group_id for pair in differing])
        for side, asked in enumerate((wanted, other))
    ]
    return Comparison(
        **_compared_means(shared).model_dump(),
        runs=(wanted.run, other.run),
        purpose=wanted.purpose or "",
        better_in_second=len(by_sign[1]),
        worse_in_second=len(by_sign[-1]),
        mixed_in_second=len(by_sign[0]),
        versions=(wanted.version, other.version),
        data_sources={source: _compared_means(pairs) for source, pairs in sorted(by_source.items())},
        differences=[
            _difference(pair, groups[0][pair[0].group_id][0], groups[1][pair[1].group_id][0])
            for pair in differing
            if pair[0].group_id in groups[0] and pair[1].group_id in groups[1]  # not deleted meanwhile
        ],
    )


def _gains(pair: Pair) -> list[float]:
    """What the second run's accuracy and visual reward are above the first's; 0 where either has none."""
    ends = [(pair[0].rewards[name], pair[1].rewards[name]) for name in ("accuracy", "visual")]
    return [0.0 if a is None or b is None else b - a for a, b in ends]


def _distance(pair: Pair) -> float:
    return sum(map(abs, _gains(pair)))


def _importance(pair: Pair) -> tuple[float, float]:
    """Of equal distances those first that differ in the answer."""
    return _distance(pair), abs(_gains(pair)[0])


def _sign(pair: Pair) -> int:
    gain = sum(_gains(pair))
    return (gain > 0) - (gain < 0)


def _compared_means(pairs: Sequence[Pair]) -> SourceComparison:
    both = {
        name: [
            (a, b) for a, b in ((x.rewards[name], y.rewards[name]) for x, y in pairs) if a is not None and b is not None
        ]
        for name in SEARCHED
    }
    return SourceComparison(
        prompts=len(pairs),
        means={
            name: (fmean(a for a, _ in values), fmean(b for _, b in values)) if values else (None, None)
            for name, values in both.items()
        },
        better={name: (sum(a > b for a, b in values), sum(b > a for a, b in values)) for name, values in both.items()},
    )


def _difference(pair: Pair, first: FoundTrace, second: FoundTrace) -> Difference:
    a, b = pair
    prompt = first.scored.rollout.prompt
    return Difference(
        groups=(a.group_id, b.group_id),
        answers=(a.answers, b.answers),
        rewards={name: (a.rewards[name], b.rewards[name]) for name in SEARCHED},
        data_source=a.data_source,
        question=prompt.question,
        reference_answer=prompt.answer,
        images=[ref.sha256 for ref in prompt.images],
        said=(said_view(first.scored), said_view(second.scored)),
    )
