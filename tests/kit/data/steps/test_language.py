from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from kit.data.readers import read
from kit.data.records import Record
from kit.data.steps.language import Language

ENGLISH = "Find the smallest positive integer that leaves a remainder of three when it is divided by seven."
SPANISH = "Encuentra el entero positivo más pequeño que deja un resto de tres cuando se divide entre siete."
CHINESE = "求最小的正整数,使得它除以七的余数为三,并且除以十一的余数为五,请给出完整的证明过程和答案。"


@pytest.mark.parametrize(("text", "code"), [(SPANISH, "es"), (CHINESE, "zh")])
def test_other_languages_are_dropped(text: str, code: str) -> None:
    records = [Record(problem=ENGLISH), Record(problem=text), Record(problem=ENGLISH, completion=text)]
    outcome = Language().apply(records)
    assert outcome.kept == records[:1]
    assert [(drop.reason, drop.detail) for drop in outcome.dropped] == [
        ("problem in another language", code),
        ("completion in another language", code),
    ]
    assert Language(parts=("problem",)).apply(records).kept == [records[0], records[2]]
    assert Language(languages=("en", code)).apply(records).kept == records


def test_short_text_and_formulas_are_kept() -> None:
    records = [
        Record(problem="Calcula la suma."),
        Record(
            problem=r"$\displaystyle\sum_{k=1}^{n}\binom{n}{k}\sin(k\theta)\cos(\alpha\beta\gamma\delta)$"
            * 20
        ),
        Record(problem='[asy]draw(dir(30)--dir(150)--cycle); label("$A$", dir(30), NE);[/asy]' * 10),
    ]
    assert Language().apply(records).kept == records


@pytest.mark.parametrize("language", ["english", "EN", "e"])
def test_codes_that_are_none(language: str) -> None:
    with pytest.raises(ValidationError, match="no ISO 639-1 code"):
        Language(languages=(language,))


def test_a_language_it_cannot_tell() -> None:
    with pytest.raises(ValueError, match="'xx' is not told apart"):
        Language(languages=("xx",)).apply([])


@pytest.mark.parametrize("name", ["math/train_7474.json", "gsm8k/test.jsonl", "aime/aime_1983_2023.json"])
def test_no_english_problem_is_lost(shared_data: Callable[[str], Path], name: str) -> None:
    records = list(read(str(shared_data(name))))
    assert Language().apply(records).dropped == []
