"""Benchmarks of seeing: what is in an image, how much of it, where, and whether the model looks at all."""

import json
import re
from collections.abc import Iterable

from vision_sr1.cli.evaluation.benchmarks.benchmark import Benchmark
from vision_sr1.cli.evaluation.benchmarks.rows import Item, Row, behind, choice, opened, placed
from vision_sr1.cli.evaluation.benchmarks.scores import accuracy_where, all_right, mean_over, only
from vision_sr1.data import DataError
from vision_sr1.prompting.prompt_template import IMAGE_MARKER

# How long the answer is to be is said by our prompt, which asks for more than a letter.
_BREVITY = re.compile(r"\s*Please answer directly with [^.\n]*\.?", re.IGNORECASE)
_NAMED = r"<image\s*(\d+)>"


def _mmmu(row: Row, **tags: str) -> Iterable[Item]:
    """MMMU and MMMU-Pro: up to seven images, which question and options name as `<image 1>`."""
    columns = [f"image_{number}" for number in range(1, 8)]
    images = {str(number): row.images(column)[0] for number, column in enumerate(columns, 1) if row.get(column)}
    options, question = row.options("options"), row.text("question")
    for number in re.findall(_NAMED, question + " ".join(options)):
        if number not in images:
            raise DataError(f"{row.where}: image {number} is named, and not there", "row")
    found = row.tags(subject="subject", difficulty="topic_difficulty", kind="img_type") | tags
    if not options:
        text, used = placed(question, _NAMED, images)
        return [opened(text, json.dumps(_several(row.get("answer"), row)), used, "any_of", found)]
    item = choice(question, options, row.get("answer"), [], found, row.where)
    text, used = placed(item.question, _NAMED, images)
    return [Item(text, item.answer, used, item.grader, item.tags)]


def _several(answer: object, row: Row) -> list[str]:
    """The answers that an open question of MMMU accepts: one, or a list written as text."""
    text = row.text("answer")
    listed = row.options("answer") if text.startswith("[") else [answer]
    return [str(one) for one in listed]


def _mmmu_pro(row: Row) -> Iterable[Item]:
    if row.get("question") is not None:
        return _mmmu(row, setting="standard")
    question = f"{IMAGE_MARKER}Answer the question that the image shows, by the letter of one of its options."
    item = choice(
        question, row.options("options"), row.get("answer"), row.images("image"), row.tags(subject="subject"), row.where
    )
    # What is asked, options included, is only in the image.
    return [Item(question, item.answer, item.images, item.grader, item.tags | {"setting": "vision"})]


def _mm_vet(row: Row) -> Iterable[Item]:
    tags, images = row.tags(capability="capability"), row.images("image")
    return [opened(behind(images, row.text("question")), row.text("answer"), images, "judge", tags)]


def _real_world_qa(row: Row) -> Iterable[Item]:
    answer, images = row.text("answer"), row.images("image")
    question = behind(images, _BREVITY.sub("", row.text("question")))
    if re.fullmatch(r"[A-D]", answer.strip()):  # its options are in the question
        return [Item(question, answer.strip(), images, "choice", {"form": "choice"})]
    return [opened(question, answer, images, "numeric", {})]


def _vis_num_bench(row: Row) -> Iterable[Item]:
    tags = row.tags(attribute="Attributes", task="task_class")
    images = row.images("image") or row.images("images")
    options = row.options("option", "options")
    question = behind(images, row.text("question"))
    return [choice(question, options, row.get("answer"), images, tags, row.where)]


def _hallusion_bench(row: Row) -> Iterable[Item]:
    answers = {"0": "no", "1": "yes"}
    said = row.text("gt_answer")
    if said not in answers:
        raise DataError(f"{row.where}: gt_answer is {said!r}, not 0 or 1", "row")
    images = row.images("image") if str(row.get("visual_input")) != "0" else []
    tags = row.tags(
        category="category",
        subcategory="subcategory",
        set_id="set_id",
        figure="figure_id",
        question="question_id",
    )
    tags |= {"sees": "yes"} if images else {}
    question = behind(images, f"{row.text('question')} Answer yes or no.")
    return [opened(question, answers[said], images, "normalized", tags)]


def _mm_star(row: Row) -> Iterable[Item]:
    tags, images = row.tags(category="category", skill="l2_category"), row.images("image")
    question = behind(images, row.text("question"))
    return [Item(question, row.text("answer").strip(), images, "choice", tags | {"form": "choice"})]


def _vilp(row: Row) -> Iterable[Item]:
    """Each question with three images, the first as one expects it; and once more without the fact before it."""
    question = row.text("question")
    _, separator, bare = question.partition(".")
    for setting, asked in (("fact", question), ("no fact", bare.strip() if separator else question)):
        for number in ("1", "2", "3"):
            tags, images = {"setting": setting, "image": number}, row.images(f"image{number}")
            yield opened(behind(images, asked), row.text(f"answer{number}"), images, "normalized", tags)


def _mmsi_bench(row: Row) -> Iterable[Item]:
    images = row.images("images")
    question = behind(images, row.text("question"))
    tags = row.tags(kind="question_type") | {"form": "choice"}
    return [Item(question, row.text("answer").strip(), images, "choice", tags)]


def _omni_spatial(row: Row) -> Iterable[Item]:
    images = row.images("image") or row.images("image_path")
    tags = row.tags(task="task_type", subtask="sub_task_type")
    answer = row.get("gt") if row.get("gt") is not None else row.get("answer")
    question = behind(images, row.text("question"))
    return [choice(question, row.options("options"), answer, images, tags, row.where)]


VISUAL = (
    Benchmark("mmmu", "MMMU", ("lmms-lab/MMMU@validation",), ("question", "options", "image_1", "answer"), _mmmu),
    Benchmark(
        "mmmu_pro",
        "MMMU-Pro",
        ("MMMU/MMMU_Pro:standard (10 options)@test", "MMMU/MMMU_Pro:vision@test"),
        ("options", "answer", "subject"),
        _mmmu_pro,
        weights=mean_over("set"),
    ),
    Benchmark(
        "mm_vet",
        "MM-Vet",
        ("lmms-lab/MMVet@test",),
        ("question", "answer", "image", "capability"),
        _mm_vet,
        open_grader="judge",
    ),
    Benchmark(
        "realworldqa",
        "RealWorldQA",
        ("lmms-lab/RealWorldQA@test",),
        ("question", "answer", "image"),
        _real_world_qa,
        open_grader="numeric",
    ),
    Benchmark("visnumbench", "VisNumBench", ("GML-FMGroup/VisNumBench@train",), ("question", "answer"), _vis_num_bench),
    Benchmark(
        "hallusionbench",
        "HallusionBench",
        ("lmms-lab/HallusionBench@image", "lmms-lab/HallusionBench@non_image"),
        ("question", "gt_answer", "visual_input"),
        _hallusion_bench,
        open_grader="normalized",
        also={
            "figure accuracy": all_right("category", "subcategory", "set_id", "figure", needs="sees"),
            "question pair accuracy": all_right("category", "subcategory", "set_id", "question"),
        },
    ),
    Benchmark("mmstar", "MMStar", ("Lin-Chen/MMStar@val",), ("question", "answer", "image", "category"), _mm_star),
    Benchmark(
        "vilp",
        "ViLP",
        ("ViLP/ViLP@train",),
        ("question", "image1", "answer1", "image2", "answer2", "image3", "answer3"),
        _vilp,
        per_row=6,
        open_grader="normalized",
        weights=only("image", "2", "3"),
        also={
            "score, with the fact": accuracy_where(setting="fact", image="23"),
            "score, without": accuracy_where(setting="no fact", image="23"),
            "prior, with the fact": accuracy_where(setting="fact", image="1"),
            "prior, without": accuracy_where(setting="no fact", image="1"),
        },
    ),
    Benchmark(
        "mmsi_bench",
        "MMSI-Bench",
        ("RunsenXu/MMSI-Bench@test",),
        ("question", "answer", "images", "question_type"),
        _mmsi_bench,
    ),
    Benchmark(
        "omnispatial", "OmniSpatial", ("qizekun/OmniSpatial@test",), ("question", "options", "task_type"), _omni_spatial
    ),
)
