"""Each benchmark on rows in the form in which it is published: questions, references, graders, scores."""

import io
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reward_service.graders import grade
from vision_sr1.cli.evaluation.benchmarks import BENCHMARKS, SUITES, Item, Questionnaire, Tagged, benchmark
from vision_sr1.cli.evaluation.benchmarks.rows import choice, placed
from vision_sr1.config import DataConfig
from vision_sr1.data import DataError
from vision_sr1.prompting.chat import content_parts


def png(color: str, size: int = 32) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (size, size), color).save(data, "PNG")
    return data.getvalue()


def struct(color: str) -> dict[str, Any]:
    return {"bytes": png(color), "path": None}


# By benchmark: published rows, and of each question what it says, its reference, and answers right and wrong.
ROWS: dict[str, list[dict[str, Any]]] = {
    "mmmu": [
        {
            "id": "validation_Art_1",
            "question": "Compare <image 1> with <image 2>. Is <image 1> older?",
            "options": "['yes', 'no', '<image 2>']",
            "image_1": struct("red"),
            "image_2": struct("blue"),
            "answer": "B",
            "question_type": "multiple-choice",
            "topic_difficulty": "Easy",
        },
        {
            "id": "validation_Math_2",
            "question": "How long is it <image 1>?",
            "options": "[]",
            "image_1": struct("red"),
            "image_2": None,
            "answer": "['6.333', '19/3']",
            "question_type": "open",
            "topic_difficulty": "Hard",
        },
    ],
    "mmmu_pro": [
        {
            "id": "test_Art_1",
            "question": "Who painted it? <image 1>",
            "options": str([f"painter {n}" for n in range(10)]),
            "image_1": struct("red"),
            "answer": "J",
            "subject": "Art",
        },
        {
            "id": "vision_Art_1",
            "image": struct("blue"),
            "options": str([f"painter {n}" for n in range(10)]),
            "answer": "C",
            "subject": "Art",
        },
    ],
    "mm_vet": [
        {
            "question_id": "v1_0",
            "image": struct("red"),
            "question": "What is x in the equation?",
            "answer": "-1<AND>-5",
            "image_source": "equation",
            "capability": "ocr,math",
        }
    ],
    "realworldqa": [
        {
            "image": struct("red"),
            "question": "Which way? \n\nA. Left\nB. Right\nPlease answer directly with only the letter of the correct "
            "option and nothing else.",
            "answer": "B",
        },
        {
            "image": struct("red"),
            "question": "How many cars are there?\nPlease answer directly with a single word or number.",
            "answer": "3",
        },
    ],
    "visnumbench": [
        {
            "id": 7,
            "image": struct("red"),
            "question": "How many dots are there?",
            "option": "(a) 10 (b) 20 (c) 30 (d) 40",
            "answer": "(b)",
            "task_class": "estimation",
            "Attributes": "quantity",
        }
    ],
    "hallusionbench": [
        {
            "category": "VS",
            "subcategory": "chart",
            "visual_input": "1",
            "set_id": "0",
            "figure_id": "1",
            "question_id": "0",
            "question": "Is red above blue?",
            "gt_answer": "1",
            "gt_answer_details": "It is.",
            "image": struct("red"),
        },
        {
            "category": "VS",
            "subcategory": "chart",
            "visual_input": "0",
            "set_id": "0",
            "figure_id": "0",
            "question_id": "0",
            "question": "Is red above blue?",
            "gt_answer": "0",
            "gt_answer_details": "Nobody knows.",
            "image": None,
        },
    ],
    "mmstar": [
        {
            "index": 0,
            "question": "Which is seen?\nOptions: A: a cat, B: a dog, C: a cow, D: a hen",
            "image": struct("red"),
            "answer": "C",
            "category": "coarse perception",
            "l2_category": "image scene",
            "meta_info": "{}",
        }
    ],
    "vilp": [
        {
            "question": "A crab walks sideways. Which animal is on the beach?",
            "image1": struct("red"),
            "answer1": "crab",
            "image2": struct("green"),
            "answer2": "horse",
            "image3": struct("blue"),
            "answer3": "fox",
        }
    ],
    "mmsi_bench": [
        {
            "id": 1,
            "images": [struct("red"), struct("blue")],
            "question_type": "Motion (Cam.)",
            "question": "Which way did the camera turn?\nOptions: A: left, B: right, C: up, D: down",
            "answer": "A",
            "thought": "It turned left.",
        }
    ],
    "omnispatial": [
        {
            "id": "1_1",
            "task_type": "Perspective_Taking",
            "sub_task_type": "Egocentric",
            "question": "Who is behind the car?",
            "options": ["a man", "a dog"],
            "image_path": "images/1.png",
            "gt": "B",
        }
    ],
    "mathverse": [
        {
            "sample_index": "1",
            "problem_index": "1",
            "problem_version": "Text Dominant",
            "question": "Find x.\nChoices:\nA:10\nB:20",
            "image": struct("red"),
            "answer": "B",
            "question_type": "multi-choice",
        },
        {
            "sample_index": "2",
            "problem_index": "1",
            "problem_version": "Vision Only",
            "question": "",
            "image": struct("blue"),
            "answer": "\\frac{1}{2}",
            "question_type": "free-form",
        },
    ],
    "math_vision": [
        {
            "id": "1",
            "question": "What is at the sign in <image1>?",
            "options": ["A", "B", "C", "D", "E"],
            "image": "images/1.jpg",
            "decoded_image": struct("red"),
            "answer": "E",
            "level": 2,
            "subject": "logic",
        },
        {
            "id": "2",
            "question": "How large is it?\n<image1>",
            "options": [],
            "image": "images/2.jpg",
            "decoded_image": struct("red"),
            "answer": "\\sqrt{2}",
            "level": 5,
            "subject": "metric geometry",
        },
    ],
    "mmlu_pro": [
        {
            "question_id": 70,
            "question": "Which one?",
            "options": ["iron", "gold", "lead"],
            "answer": "C",
            "answer_index": 2,
            "category": "chemistry",
            "src": "x",
        }
    ],
    "supergpqa": [
        {
            "uuid": "a",
            "question": "Which one?",
            "options": ["iron", "gold", "lead"],
            "answer": "gold",
            "answer_letter": "B",
            "discipline": "Science",
            "difficulty": "hard",
        }
    ],
    "gsm8k": [{"question": "How many in all?", "answer": "7 and 5 are 12.\nTimes 100.\n#### 1,200"}],
    "math_500": [
        {
            "problem": "Expand $(x+1)^2$.",
            "solution": "It is $x^2+2x+1$.",
            "answer": "x^2+2x+1",
            "subject": "Algebra",
            "level": 1,
            "unique_id": "test/1",
        }
    ],
}
# (question's parts that must be there), reference, number of images, an answer that is right, one that is wrong
EXPECTED: dict[str, list[tuple[tuple[str, ...], str, int, str, str]]] = {
    "mmmu": [
        (("Compare <image> with <image>. Is image 1 older?", "A. yes\nB. no\nC. image 2"), "B", 2, "no", "A"),
        (("How long is it <image>?",), '["6.333", "19/3"]', 1, "6.33", "6"),
    ],
    "mmmu_pro": [
        (("Who painted it? <image>\nA. painter 0", "J. painter 9"), "J", 1, "(J)", "A"),
        (("<image>Answer the question that the image shows",), "C", 1, "C", "D"),
    ],
    "mm_vet": [(("<image>What is x in the equation?",), "-1<AND>-5", 1, "", "")],
    "realworldqa": [
        (("<image>Which way? \n\nA. Left\nB. Right",), "B", 1, "Right", "A"),
        (("<image>How many cars are there?",), "3", 1, "3.0", "4"),
    ],
    "visnumbench": [(("<image>How many dots are there?\nA. 10\nB. 20\nC. 30\nD. 40",), "B", 1, "20", "C")],
    "hallusionbench": [
        (("<image>Is red above blue? Answer yes or no.",), "yes", 1, "Yes.", "No"),
        (("Is red above blue? Answer yes or no.",), "no", 0, "no", "yes"),
    ],
    "mmstar": [(("<image>Which is seen?",), "C", 1, "a cow", "B")],
    "vilp": [
        (("<image>A crab walks sideways. Which animal",), "crab", 1, "Crab", "fox"),
        (("<image>A crab walks sideways. Which animal",), "horse", 1, "the horse", "crab"),
        (("<image>A crab walks sideways. Which animal",), "fox", 1, "Fox.", "crab"),
        (("<image>Which animal is on the beach?",), "crab", 1, "crab", "fox"),
        (("<image>Which animal is on the beach?",), "horse", 1, "horse", "crab"),
        (("<image>Which animal is on the beach?",), "fox", 1, "fox", "crab"),
    ],
    "mmsi_bench": [(("<image><image>Which way did the camera turn?",), "A", 2, "left", "B")],
    "omnispatial": [(("<image>Who is behind the car?\nA. a man\nB. a dog",), "B", 1, "a dog", "A")],
    "mathverse": [
        (("<image>Find x.\nChoices:\nA:10\nB:20",), "B", 1, "20", "A"),
        (("<image>Answer the question that the image shows.",), "\\frac{1}{2}", 1, "0.5", "2"),
    ],
    "math_vision": [
        (("What is at the sign in <image>?\nA. A\nB. B",), "E", 1, "E", "D"),
        (("How large is it?\n<image>",), "\\sqrt{2}", 1, "2^{1/2}", "2"),
    ],
    "mmlu_pro": [(("Which one?\nA. iron\nB. gold\nC. lead",), "C", 0, "lead", "gold")],
    "supergpqa": [(("Which one?\nA. iron\nB. gold\nC. lead",), "B", 0, "gold", "C")],
    "gsm8k": [(("How many in all?",), "1,200", 0, "1200", "12")],
    "math_500": [(("Expand $(x+1)^2$.",), "x^2+2x+1", 0, "(x+1)^2", "x^2+1")],
}


def published(folder: Path, name: str) -> list[str]:
    """The rows as files, those of one form in one."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "1.png").write_bytes(png("red"))
    forms: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in ROWS[name]:
        forms.setdefault(tuple(row), []).append(row)
    files = []
    for number, rows in enumerate(forms.values()):
        files.append(folder / f"{name}-{number}.parquet")
        pq.write_table(pa.Table.from_pylist(rows), files[-1])
    return [str(file) for file in files]


def items(name: str, sources: list[str], limit: int | None = None) -> list[Item]:
    questions = Questionnaire(benchmark(name), sources, DataConfig(), limit)
    found = [item for _, item in questions.items(lambda _: False)]
    assert len(found) == len(questions.numbers)
    usable = [item for item in found if isinstance(item, Item)]
    assert len(usable) == len(found), found
    return usable


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_rows_become_questions_that_are_graded(name: str, tmp_path: Path):
    found = items(name, published(tmp_path, name))
    assert len(found) == len(EXPECTED[name])
    for item, (parts, reference, images, right, wrong) in zip(found, EXPECTED[name], strict=True):
        assert all(part in item.question for part in parts), item.question
        assert item.answer == reference
        assert len(item.images) == images
        content_parts(item.question, images)
        if name == "mm_vet":
            assert item.grader == "judge"
            continue
        assert item.grader is not None
        assert grade(item.grader, right, item.answer, item.question, 0.01)
        assert not grade(item.grader, wrong, item.answer, item.question, 0.01)


def test_every_benchmark_of_the_issue_is_there():
    assert set(BENCHMARKS) == set(ROWS) == set(SUITES["all"])
    assert set(SUITES["images"]) | set(SUITES["text"]) == set(BENCHMARKS)


@pytest.mark.parametrize(
    ("answer", "options", "letter"),
    [
        ("B", ["C", "A", "B"], "B"),
        ("a man", ["a dog", "a man"], "B"),
        ("(b)", ["x", "y"], "B"),
        ("B. y", ["x", "y"], "B"),
        (1, ["x", "y"], "B"),
        ("y", ["x", "y"], "B"),
    ],
)
def test_an_answer_is_a_letter_an_index_or_an_option(answer: object, options: list[str], letter: str):
    assert choice("?", options, answer, [], {}, "row 1").answer == letter


def test_an_image_that_no_text_names_is_in_front_and_counted():
    images = {"1": b"1", "2": b"2", "3": b"3"}
    text, order = placed("See <image 3>, and <image 3> beside <image 1>, not <image 7>.", r"<image (\d)>", images)
    assert text == "<image>See <image>, and image 2 beside <image>, not <image 7>."
    assert order == [b"2", b"3", b"1"]


def test_images_in_options_are_shown_where_they_are(tmp_path: Path):
    row = ROWS["mmmu"][0] | {"question": "Which one?", "options": "['<image 2>', '<image 1>']", "answer": "A"}
    file = tmp_path / "mmmu.parquet"
    pq.write_table(pa.Table.from_pylist([row]), file)
    (item,) = items("mmmu", [str(file)])
    assert item.question == "Which one?\nA. <image>\nB. <image>"
    assert item.images == [png("blue"), png("red")]


def test_what_the_datasets_library_wrote_is_read(tmp_path: Path):
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "images": datasets.List(datasets.Image()),
            **{name: datasets.Value("string") for name in ("question_type", "question", "answer", "thought")},
        }
    )
    datasets.Dataset.from_list(ROWS["mmsi_bench"], features=features).save_to_disk(tmp_path / "mmsi")
    (item,) = items("mmsi_bench", [str(tmp_path / "mmsi")])
    assert len(item.images) == 2
    assert item.tags == {"kind": "Motion (Cam.)", "form": "choice", "set": "0"}


def test_the_authors_own_files_are_read_in_the_form_of_their_training_data(tmp_path: Path):
    rows = [
        {"problem": "<image>Which?\nA. red\nB. blue", "answer": "B", "images": [struct("blue")]},
        {"problem": "<image>How much?", "answer": "\\frac{1}{2}", "images": [struct("blue")]},
    ]
    file = tmp_path / "mathverse.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    chosen, opened = items("mathverse", [str(file)])
    assert (chosen.grader, opened.grader) == ("choice", "math_verify")
    mine, _ = items("mine", [str(file)])
    assert mine.grader is None, "as the configuration has it"


def test_answers_of_a_set_of_the_user_s_may_be_several_and_nested(tmp_path: Path):
    row = {"problem": "Which?", "reward_model": {"ground_truth": ["red", "crimson"]}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "mine.parquet")
    config = DataConfig(answer_key="reward_model.ground_truth")
    ((_, item),) = Questionnaire(benchmark("mine"), [str(tmp_path / "mine.parquet")], config, None).items(
        lambda _: False
    )
    assert isinstance(item, Item)
    assert (item.answer, item.grader) == ('["red", "crimson"]', "any_of")


def test_a_file_of_another_benchmark_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"is no MMStar: its columns are answer, question, and not question, an"):
        items("mmstar", published(tmp_path, "gsm8k"))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("mmlu_pro", {"answer": "K"}, "the answer 'K' is none of 3 options"),
        ("mmlu_pro", {"options": []}, "no options"),
        ("mmlu_pro", {"question": " "}, "no question"),
        ("mmmu", {"image_1": None}, "image 1 is named, and not there"),
        ("mmstar", {"image": {"bytes": b"no image", "path": None}}, "that are not an image"),
        ("hallusionbench", {"gt_answer": "2"}, "gt_answer is '2', not 0 or 1"),
        ("gsm8k", {"answer": "12"}, "ends with no `#### number`"),
    ],
)
def test_a_broken_row_is_refused_with_its_place(name: str, changes: dict[str, Any], said: str, tmp_path: Path):
    row, file = ROWS[name][0], tmp_path / "rows.parquet"
    schema = pa.Table.from_pylist([row]).schema
    pq.write_table(pa.Table.from_pylist([row | changes, row], schema=schema), file)
    questions = Questionnaire(benchmark(name), [str(file)], DataConfig(), None)
    (_, refused), (_, whole) = list(questions.items(lambda _: False))[:2]
    assert isinstance(refused, DataError)
    assert f"{file}, row 0" in str(refused)
    assert said in str(refused)
    assert isinstance(whole, Item)


def test_numbers_of_questions_do_not_change_with_the_limit_and_known_ones_are_not_read(tmp_path: Path):
    files = []
    for number in range(2):
        files.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.Table.from_pylist(ROWS["vilp"] * 3), files[-1])
    every = Questionnaire(benchmark("vilp"), files, DataConfig(), None)
    assert [number for number, _ in every.items(lambda _: False)] == every.numbers == list(range(36))
    assert every.sets == [[file, 3] for file in files]
    few = Questionnaire(benchmark("vilp"), files, DataConfig(), 1)
    assert [number for number, _ in few.items(lambda _: False)] == [*range(6), *range(18, 24)]
    assert [number for number, _ in few.items(lambda number: number != 20)] == [20]


def tagged(*answers: tuple[float, dict[str, str]]) -> list[Tagged]:
    return [Tagged(tags, accuracy) for accuracy, tags in answers]


def test_mmmu_pro_is_the_mean_of_its_two_settings():
    answers = tagged((1.0, {"set": "0"}), (1.0, {"set": "0"}), (0.0, {"set": "0"}), (0.0, {"set": "1"}))
    weigh = benchmark("mmmu_pro").weights
    assert weigh is not None
    weights = weigh(answers)
    assert (weights * [a.accuracy for a in answers]).sum() / weights.sum() == pytest.approx((2 / 3 + 0) / 2)


def test_vilp_scores_the_images_that_one_does_not_expect():
    answers = tagged(
        *((1.0, {"setting": s, "image": "1"}) for s in ("fact", "no fact")),
        (0.0, {"setting": "fact", "image": "2"}),
        (1.0, {"setting": "fact", "image": "3"}),
        (1.0, {"setting": "no fact", "image": "2"}),
        (1.0, {"setting": "no fact", "image": "3"}),
    )
    vilp = benchmark("vilp")
    assert vilp.weights is not None
    assert list(vilp.weights(answers)) == [0, 0, 1, 1, 1, 1]
    scores = {name: rule(answers) for name, rule in vilp.also.items()}
    assert scores == {
        "score, with the fact": 0.5,
        "score, without": 1.0,
        "prior, with the fact": 1.0,
        "prior, without": 1.0,
    }
    assert vilp.also["score, without"](tagged((1.0, {}))) is None, "the authors' form does not say"


def test_hallusionbench_asks_for_all_questions_of_a_figure():
    def answer(right: float, figure: str, question: str, **more: str) -> tuple[float, dict[str, str]]:
        place = {"category": "VS", "subcategory": "chart", "set_id": "0", "figure": figure, "question": question}
        return right, place | more

    answers = tagged(
        answer(1.0, "1", "0", sees="yes"),
        answer(0.0, "1", "1", sees="yes"),
        answer(1.0, "2", "0", sees="yes"),
        answer(1.0, "0", "0"),
    )
    also = benchmark("hallusionbench").also
    assert also["figure accuracy"](answers) == 0.5, "that without an image is of no figure"
    assert also["question pair accuracy"](answers) == 0.5
