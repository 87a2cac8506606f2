"""One file a task: what goes in, what comes out, how the answer is judged. Settings only; networks load torch."""

from migaki.core.parts import Task, discovered
from migaki.tasks.classify_audio import ClassifyAudio
from migaki.tasks.classify_image import ClassifyImage
from migaki.tasks.classify_text import ClassifyText
from migaki.tasks.generate import Generate
from migaki.tasks.label_text import LabelText
from migaki.tasks.tag_tokens import TagTokens
from migaki.tasks.transcribe import Transcribe

__all__ = [
    "ClassifyAudio",
    "ClassifyImage",
    "ClassifyText",
    "Generate",
    "LabelText",
    "TagTokens",
    "Transcribe",
    "all_tasks",
]


def all_tasks() -> tuple[type[Task], ...]:
    """The built-in tasks and those of the entry-point group `migaki.tasks`, sorted by kind."""
    return discovered(
        "migaki.tasks", (ClassifyAudio, ClassifyImage, ClassifyText, Generate, LabelText, TagTokens, Transcribe)
    )
