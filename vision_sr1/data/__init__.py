"""Data sets as users have them: questions for RL and evaluation, conversations for supervised stages."""

from vision_sr1.data.conversations import ConversationRow, Conversations
from vision_sr1.data.errors import DataError
from vision_sr1.data.mixture import Mixture, conversations, questions
from vision_sr1.data.questions import FurtherQuestion, QuestionRow, Questions

__all__ = [
    "ConversationRow",
    "Conversations",
    "DataError",
    "FurtherQuestion",
    "Mixture",
    "QuestionRow",
    "Questions",
    "conversations",
    "questions",
]
