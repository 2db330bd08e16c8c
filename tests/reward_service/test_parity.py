r"""The scores of many responses against those that the paper's rules give, worked out independently here.

The rules, from the authors' release: white space around each of < > / is removed; *format* is 1 where the whole
response is, up to white space, a description block, a think block and one `\boxed{}` in this order and nothing else;
*accuracy* is mathruler's grade of mathruler's extraction of what is boxed; *visual* is that of the re-query's response.
"""

import re

from mathruler.grader import extract_boxed_content, grade_answer

from reward_service.graders import mathruler
from reward_service.rewards import RESPONSE_REWARDS
from tests.reward_service.responses import RESPONSES
from tests.reward_service.test_rewards import answered
from vision_sr1.config import RewardConfig

# Where ours is stricter on purpose, and why.
NO_BOX = r"mathruler reads 'None' out of a response without \boxed{}, which is right where the reference is 'None'"
STRICTER = {("no answer at all", "None"): NO_BOX, (r"\boxed{red", "None"): NO_BOX}


def tidied(response: str) -> str:
    return re.sub(r"\s*([<>/])\s*", r"\1", response)


def format_by_the_rule(response: str) -> float:
    """One block after the other is taken off the front, each as long as the next can still follow."""
    text = tidied(response).strip()
    for block, follower in (("description", "<think>"), ("think", "\\boxed{")):
        if not text.startswith(f"<{block}>"):
            return 0.0
        ends = [m.end() for m in re.finditer(f"</{block}>", text) if text[m.end() :].lstrip().startswith(follower)]
        if not ends:
            return 0.0
        text = text[ends[0] if block == "description" else ends[-1] :].lstrip()
    depth = 0
    for place, character in enumerate(text.removeprefix("\\boxed")):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return float(place == len(text) - len("\\boxed") - 1 and text.count("\\boxed{") == 1)
    return 0.0


def accuracy_by_the_rule(response: str, reference: str) -> float:
    return float(grade_answer(extract_boxed_content(tidied(response)), reference))


def description_by_the_rule(response: str) -> str | None:
    found = re.search("<description>(.*?)</description>", tidied(response), re.DOTALL)
    return found.group(1) if found else None


def scores(response: str, reference: str) -> tuple[float, float]:
    given = answered(response.encode(), reference=reference)
    right = given.answer is not None and mathruler(given.answer, reference)
    return RESPONSE_REWARDS["format"](given, RewardConfig()).value, float(right)


def test_there_are_many_and_each_rule_says_both():
    assert len(RESPONSES) >= 200
    for rule in (lambda r, a: format_by_the_rule(r), accuracy_by_the_rule):
        assert {rule(response, reference) for response, reference in RESPONSES} == {0.0, 1.0}


def test_scores_are_those_of_the_papers_rules_but_where_ours_are_stricter_on_purpose():
    ours = {case: scores(*case) for case in RESPONSES}
    theirs = {case: (format_by_the_rule(case[0]), accuracy_by_the_rule(*case)) for case in RESPONSES}
    different = {case: (ours[case], theirs[case]) for case in RESPONSES if ours[case] != theirs[case]}
    assert different.keys() == STRICTER.keys(), different
    for mine, paper in different.values():
        assert all(a <= b for a, b in zip(mine, paper, strict=True))


def test_what_is_asked_about_is_the_description_and_never_the_whole_response():
    """Without a description block the authors' code asks about the whole response, which leaks its answer."""
    for response, _ in RESPONSES:
        ours, theirs = answered(response.encode()).description, description_by_the_rule(response)
        if ours is None or theirs is None:
            assert ours is theirs
        else:
            assert tidied(ours).strip() == theirs.strip()
