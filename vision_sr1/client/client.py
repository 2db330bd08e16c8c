"""The client: one method for each route, answers as `vision_sr1.client.models`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, get_type_hints
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from vision_sr1.client.filters import GroupFilters, TraceFilters
from vision_sr1.client.models import (
    Comparison,
    GroupOrder,
    GroupPage,
    GroupSummary,
    GroupView,
    Pipeline,
    PromptHistory,
    PromptVersion,
    Purpose,
    Rescored,
    Row,
    RowPage,
    RunView,
    ScalarsView,
    ScoreRequest,
    Statistics,
    StepPage,
    StepView,
    TokensView,
    TracePage,
    TracePrompts,
    TraceView,
    WordDiff,
)

if TYPE_CHECKING:
    import pandas as pd

M = TypeVar("M", bound=BaseModel)


class ApiError(RuntimeError):
    """The service refused a request; the message says why and what to do.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status


class Client:
    """Asks a reward service.

        with Client("http://127.0.0.1:8088") as client:
            for trace in client.traces(pattern="shortcut"):
                print(trace.id, trace.rewards["visual"].explanation)

    It connects directly, whatever proxy the environment names. Every method raises ApiError where the service refuses,
    and httpx.HTTPError where it does not answer.

    Args:
        url: where the service listens.
        token: `reward.api.token`.
        timeout_s: for one answer.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        direct = httpx.HTTPTransport()  # through no proxy
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=direct)

    def runs(self) -> list[RunView]:
        """Runs in the store."""
        return TypeAdapter(list[RunView]).validate_json(self._get("/v1/runs"))

    def steps(self, *, run: str | None = None, limit: int = 20) -> Iterator[StepView]:
        """All batches of a run, the last first; `limit` at a time."""
        for page in self._pages("/v1/steps", StepPage, {"run": run, "limit": limit}):
            yield from page.steps

    def traces(self, *, limit: int = 50, **filters: Unpack[TraceFilters]) -> Iterator[TraceView]:
        """All traces that fit, newest first; `limit` at a time."""
        for page in self._pages("/v1/traces", TracePage, {**_checked(TraceFilters, filters), "limit": limit}):
            yield from page.traces

    def rows(self, *, limit: int = 200, **filters: Unpack[TraceFilters]) -> Iterator[Row]:
        """All traces that fit as rows of a table, newest first; `limit` at a time."""
        for page in self._pages("/v1/rows", RowPage, {**_checked(TraceFilters, filters), "limit": limit}):
            yield from page.rows

    def frame(self, *, images: bool = False, limit: int = 200, **filters: Unpack[TraceFilters]) -> "pd.DataFrame":
        """All traces that fit as a pandas DataFrame, with the columns that `vision-sr1 traces RUN --export` writes.

        Args:
            images: add the column `image_bytes`, a list of encoded images for each answer.
            limit: traces that are fetched at a time.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("Client.frame needs pandas: install the extra `pandas`", name="pandas") from error

        rows = list(self.rows(limit=limit, **filters))
        if images:
            fetched = {sha: self._image_or_none(sha) for sha in {sha for row in rows for sha in row["images"]}}
            for row in rows:
                row["image_bytes"] = [data for sha in row["images"] if (data := fetched[sha]) is not None]
        return pd.DataFrame(rows)

    def _image_or_none(self, sha: str) -> bytes | None:
        """None of an image that the store does not have."""
        try:
            return self.image(sha)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def trace(self, trace_id: str, *, run: str | None = None) -> TraceView:
        """One trace by its rollout's id."""
        return self._view(TraceView, f"/v1/traces/{quote(trace_id)}", run=run)

    def tokens(self, trace_id: str, *, run: str | None = None) -> TokensView:
        """A response token by token."""
        return self._view(TokensView, f"/v1/traces/{quote(trace_id)}/tokens", run=run)

    def prompt(self, trace_id: str, *, run: str | None = None) -> TracePrompts:
        """The prompts of a trace as the policy received them."""
        return self._view(TracePrompts, f"/v1/traces/{quote(trace_id)}/prompt", run=run)

    def diff(self, trace_id: str, base: str, *, run: str | None = None) -> WordDiff:
        """The words in which a response differs from that of another trace."""
        return self._view(WordDiff, f"/v1/traces/{quote(trace_id)}/diff", base=base, run=run)

    def groups(
        self,
        *,
        order: GroupOrder = "newest",
        limit: int = 20,
        **filters: Unpack[GroupFilters],
    ) -> Iterator[GroupSummary]:
        """All groups that fit, in this order; `limit` at a time."""
        asked = {**_checked(GroupFilters, filters), "order": order, "limit": limit}
        for page in self._pages("/v1/groups", GroupPage, asked):
            yield from page.groups

    def group(self, group_id: str, *, run: str | None = None) -> GroupView:
        """All rollouts of a prompt, with their advantages."""
        return self._view(GroupView, f"/v1/groups/{quote(group_id)}", run=run)

    def prompt_versions(
        self, prompt_key: str, *, run: str | None = None, purpose: Purpose | None = None, limit: int = 50
    ) -> Iterator[PromptVersion]:
        """A prompt at all policy versions that answered it, the oldest first; `limit` at a time."""
        asked = {"run": run, "purpose": purpose, "limit": limit}
        for page in self._pages(f"/v1/prompts/{quote(prompt_key)}", PromptHistory, asked):
            yield from page.versions

    def image(self, sha: str) -> bytes:
        """An image by its SHA-256."""
        return self._get(f"/v1/images/{quote(sha)}")

    def statistics(
        self, *, run: str | None = None, purpose: Purpose | None = None, data_source: str | None = None
    ) -> Statistics:
        """Distributions and curves of every reward."""
        return self._view(Statistics, "/v1/statistics", run=run, purpose=purpose, data_source=data_source)

    def scalars(self, *, run: str | None = None, names: Sequence[str] | None = None) -> ScalarsView:
        """The learner's curves."""
        return self._view(ScalarsView, "/v1/scalars", run=run, names=names)

    def comparison(
        self,
        other: str,
        *,
        run: str | None = None,
        purpose: Purpose | None = None,
        data_source: str | None = None,
        min_version: int | None = None,
        max_version: int | None = None,
    ) -> Comparison:
        """Two runs on the prompts that both were asked; without options, held-out ones at the newest version each."""
        asked = {"run": run, "purpose": purpose, "data_source": data_source}
        versions = {"min_version": min_version, "max_version": max_version}
        return self._view(Comparison, "/v1/comparison", other=other, **asked, **versions)

    def score(self, response: str, reference_answer: str, *, question: str = "", data_source: str = "") -> TraceView:
        """Scores a response now, as a rollout of the run would be."""
        request = ScoreRequest(
            question=question, reference_answer=reference_answer, response=response, data_source=data_source
        )
        return TraceView.model_validate_json(self._post("/v1/score", json=request.model_dump()))

    def rescore(self, trace_id: str, *, run: str | None = None, ask_again: bool = False) -> Rescored:
        """Scores a recorded response again, and says what differs."""
        asked = _given({"run": run, "ask_again": ask_again})
        return Rescored.model_validate_json(self._post(f"/v1/traces/{quote(trace_id)}/rescore", params=asked))

    def live(self, *, last_event_id: int | None = None, **filters: Unpack[TraceFilters]) -> Iterator[TraceView]:
        """Traces that fit, as they are recorded, until the connection ends."""
        asked = _given(_checked(TraceFilters, filters))
        headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
        with self._http.stream("GET", "/v1/live", params=asked, headers=headers, timeout=None) as response:
            if response.is_error:
                response.read()
                _check(response)
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "data":
                    yield TraceView.model_validate_json(value)

    def pipeline(self) -> Pipeline:
        """Queues, actors with their versions, and dead letters."""
        return self._view(Pipeline, "/v1/pipeline")

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pages(self, path: str, kind: type[M], asked: dict[str, Any]) -> Iterator[M]:
        cursor: str | None = None
        while True:
            page = self._view(kind, path, **asked, cursor=cursor)
            yield page
            cursor = getattr(page, "next_cursor", None)
            if cursor is None:
                return

    def _view(self, kind: type[M], path: str, **asked: Any) -> M:
        return kind.model_validate_json(self._get(path, **asked))

    def _get(self, path: str, **asked: Any) -> bytes:
        return _check(self._http.get(path, params=_given(asked)))

    def _post(self, path: str, **request: Any) -> bytes:
        return _check(self._http.post(path, **request))


def _checked(known: type[TraceFilters], filters: Mapping[str, Any]) -> dict[str, Any]:
    names = sorted(get_type_hints(known))
    if unknown := filters.keys() - set(names):
        raise TypeError(f"no filter {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return dict(filters)


def _given(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}


def _check(response: httpx.Response) -> bytes:
    if response.is_error:
        try:
            detail = str(response.json()["detail"])
        except (json.JSONDecodeError, KeyError, TypeError):
            detail = response.text[:500]
        raise ApiError(response.status_code, detail)
    return response.content
