from pathlib import Path

import pytest

from vision_sr1.prompting.chat import ImageMarkerError, content_parts
from vision_sr1.prompting.prompt_template import PromptTemplate, TemplateError


def test_the_requery_has_no_image_marker_whatever_it_is_given():
    text = PromptTemplate("requery").requery("<image> a red square", "<image>What color is it?")
    assert "<image>" not in text
    assert "a red square" in text
    assert "What color is it?" in text


def test_a_users_own_template_is_used(tmp_path: Path):
    file = tmp_path / "mine.jinja"
    file.write_text("Q: {{ question }}!")
    assert PromptTemplate(str(file)).answer("<image>why", 1) == "Q: <image>why!"


def test_a_question_without_images_asks_for_no_description():
    template = PromptTemplate("answer")
    assert "<description>" in template.answer("<image>why", 1)
    assert "<description>" not in template.answer("why", 0)
    assert all("<think>" in template.answer("why", images) for images in (0, 1))


def test_a_missing_template_names_the_built_in_ones():
    with pytest.raises(TemplateError, match="plain_requery"):
        PromptTemplate("nope")


def test_a_template_that_uses_an_unknown_variable_says_which(tmp_path: Path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ qestion }}")
    with pytest.raises(TemplateError, match="qestion"):
        PromptTemplate(str(file)).answer("why", 0)


def test_images_go_where_the_markers_are():
    parts = content_parts("first <image> then <image>?", 2)
    assert [p["type"] for p in parts] == ["text", "image", "text", "image", "text"]


def test_a_question_without_markers_has_its_image_in_front():
    assert [p["type"] for p in content_parts("why?", 1)] == ["image", "text"]


def test_markers_and_images_must_match():
    with pytest.raises(ImageMarkerError, match="2 <image> markers for 1 images"):
        content_parts("<image><image>", 1)
