"""One set of a recipe, and how it is read."""

from collections.abc import Iterator, MutableSequence
from pathlib import Path

from pydantic import Field

from kit.data.readers import LOCAL_SUFFIXES, Unreadable, read
from kit.data.records import Record
from submission.recipes import Recipe


class Source(Recipe):
    """A set to read."""

    path: str
    """Local file or folder, or hub name ("openai/gsm8k:main")."""
    split: str = "train"
    """Of a hub name or folder."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Field of a record = column of the set, where the reader does not know the set."""
    licence: str = ""
    """As the set's own page states it."""
    teacher: str = ""
    """The model that wrote the completions, where the set does not say."""
    limit: int = Field(default=0, ge=0)
    """The first so many records; 0 takes all."""

    def located(self, root: Path) -> str:
        """The path under `root` where there is such a file or folder, else as it stands.

        Raises:
            ValueError: it is the name of a local file, and there is none.
        """
        if (root / self.path).exists():
            return str(root / self.path)
        if self.path.endswith(LOCAL_SUFFIXES) and not Path(self.path).exists():
            raise ValueError(
                f"there is no file {root / self.path}; `root` in the recipe is the folder of local sets"
            )
        return self.path

    def read(
        self, name: str, root: Path = Path(), *, unreadable: MutableSequence[Unreadable] | None = None
    ) -> Iterator[Record]:
        """Its records, see `kit.data.readers.read`."""
        records = read(
            self.located(root),
            split=self.split,
            columns=self.columns,
            limit=self.limit,
            name=name,
            licence=self.licence,
            unreadable=unreadable,
        )
        for record in records:
            named = self.teacher and record.completion and not record.teacher
            yield record.model_copy(update={"teacher": self.teacher}) if named else record
