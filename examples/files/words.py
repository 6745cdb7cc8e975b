"""The words of all texts in a folder are counted, some files at a time; a file that is no text is named at the end.

python words.py 200      # writes two hundred texts, some of which are none, into the folder `texts`
"""

import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stepwell import App, Step, current_step

app = App("words")

HERE: Final = Path(__file__).resolve().parent
PACE: Final = float(os.environ.get("PACE", "0"))
"""How many seconds a file takes: time to kill the worker in the middle."""
VOCABULARY: Final = (
    "water",
    "stone",
    "step",
    "stair",
    "well",
    "deep",
    "shade",
    "carve",
    "draw",
    "carry",
    "rain",
    "season",
)


@dataclass(frozen=True)
class Job:
    """What to count; the folder is relative to this file."""

    folder: str = "texts"


@dataclass(frozen=True)
class Report:
    """What was found."""

    files: int
    words: int
    unreadable: list[str]


@app.workflow
async def count_words(step: Step, job: Job) -> Report:
    """Count the words of all texts in a folder, and name what is no text."""
    files = await step.run("list", list_files, job.folder)
    counts = await step.map("count", files, count, concurrency=4, failures="collect", retries=0)
    unreadable = [file for file, words in zip(files, counts, strict=True) if isinstance(words, BaseException)]
    return Report(len(files), sum(words for words in counts if isinstance(words, int)), unreadable)


def list_files(folder: str) -> list[str]:
    """What is there now. A step, so that an execution which goes on later sees the same files."""
    note()
    return sorted(str(file.relative_to(HERE)) for file in (HERE / folder).glob("*.txt"))


def count(file: str) -> int:
    """Count the words of one text."""
    note()
    time.sleep(PACE)
    return len((HERE / file).read_text(encoding="utf-8").split())


def note() -> None:
    """Append to a file that this body begins; the line is on disk when this returns."""
    (HERE / ".stepwell").mkdir(exist_ok=True)
    with (HERE / ".stepwell" / "bodies.log").open("a") as log:
        log.write(f"{current_step().execution_id} {current_step().path}\n")
        log.flush()
        os.fsync(log.fileno())


def make_texts(number: int) -> None:
    """Write so many texts; each twentieth is none."""
    dice = random.Random(number)
    (HERE / "texts").mkdir(exist_ok=True)
    for n in range(number):
        text = " ".join(dice.choices(VOCABULARY, k=dice.randint(50, 500)))
        (HERE / "texts" / f"{n:04}.txt").write_bytes(b"\xff\xfe" if n % 20 == 19 else text.encode())


if __name__ == "__main__":
    make_texts(int(sys.argv[1]))
