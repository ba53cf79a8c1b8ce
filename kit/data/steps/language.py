"""Keep texts in the wanted languages, told by `py3langid` (langid.py, Lui and Baldwin 2012).

Formulas, diagrams and code are left out first: their letters belong to no language. What is left must be
long enough and the verdict sure enough; else the record is kept. About 0.2 ms a problem; grows with the text,
up to `MAX_CHARS`.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from kit.data.records import Record
from kit.data.steps.base import Outcome, Tick, no_tick, sieve
from kit.data.text import letters, prose
from submission.recipes import Recipe

MAX_CHARS = 20_000
"""The first so many characters of a text decide."""


class Language(Recipe):
    """Settings of the step."""

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """ISO 639-1 codes."""
    parts: tuple[Literal["problem", "completion"], ...] = ("problem", "completion")
    """What is looked at; each part must pass."""
    min_letters: int = Field(default=60, ge=1)
    """Shorter prose is kept, whatever it looks like; an ideograph counts as three letters."""
    confidence: float = Field(default=0.99, gt=0, le=1)
    """Probability of not being in any of `languages` from which on a record is dropped."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for language in self.languages:
            if len(language) != 2 or not (language.isascii() and language.islower()):
                raise ValueError(f"language {language!r} is no ISO 639-1 code such as 'en' or 'zh'")
        return self

    def apply(self, records: Sequence[Record], tick: Tick = no_tick) -> Outcome:
        """Drops name the part and the language that it is in."""
        identifier = _identifier()
        unknown = sorted(set(self.languages) - set(identifier.labels))
        if unknown:
            raise ValueError(f"language.languages: {unknown[0]!r} is not told apart by py3langid")

        @lru_cache(maxsize=4096)
        def foreign(text: str) -> str:
            plain = prose(text[:MAX_CHARS])
            if letters(plain) < self.min_letters:
                return ""
            best = str(identifier.classify(plain)[0])
            if best in self.languages:
                return ""
            wanted = sum(share for language, share in identifier.rank(plain) if language in self.languages)
            return "" if wanted > 1 - self.confidence else best

        def why(record: Record) -> tuple[str, str] | None:
            for part in self.parts:
                language = foreign(getattr(record, part))
                if language:
                    return f"{part} in another language", language
            return None

        return sieve(records, why, tick)


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """An own identifier: the module's shared one can be restricted by anyone, for everyone."""
    from py3langid import langid

    model = Path(langid.__file__).parent / langid.MODEL_FILE
    return langid.LanguageIdentifier.from_modelpath(model, norm_probs=True)
