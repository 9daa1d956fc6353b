"""Writes the table of experiments/README.md, between its two comments: each row is of a folder's question.yaml."""

from collections.abc import Iterable
from pathlib import Path

import yaml

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
MARKS = "<!-- from here on by experiments/page.py -->", "<!-- to here -->"
FOLDERS = "prior", "main_job", "fidelity", "polygrad", "diffusion_dice", "precision", "simulators", "behaviour"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text()))


def page(text: str) -> str:
    """The page with the table of now."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return "\n".join([before + MARKS[0], "", *table(), "", MARKS[1] + after])


def table() -> Iterable[str]:
    yield "| question | answer so far | cost | command | numbers |"
    yield "|---|---|---|---|---|"
    for folder in FOLDERS:
        for row in yaml.safe_load((HERE / folder / "question.yaml").read_text()):
            command = f"`experiments/{folder}/run.sh {row['parts']}`"
            yield f"| {row['question']} | {row['answer']} | {row['cost']} | {command} | {row['numbers']} |"


if __name__ == "__main__":
    main()
