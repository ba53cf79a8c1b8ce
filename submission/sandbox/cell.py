"""Runs code as a notebook's cell: names stay, the last expression's value is shown, errors are short.

This is the one place of the project that runs text as code; it does so only inside a confined worker.
"""

import ast
import builtins
import linecache
import sys
import traceback
import types
from typing import Any, NamedTuple

from submission.sandbox.output import clip_text

_MAX_FRAMES = 6
_MAX_LINE = 160
_MAX_MESSAGE = 1_000
REFUSED_HINT = "(this sandbox has no network, no other processes, and only its own folder to write in)"


class Shown(NamedTuple):
    """What a cell gives: the last expression's value as text, or an error; both may be empty."""

    value: str
    error: str


class Notebook:
    """The names that one agent's cells share.

    Args:
        max_chars: characters of a shown value.
    """

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._count = 0
        # A module of its own, so that what looks itself up in __main__ finds the cells' names.
        module = types.ModuleType("__main__")
        module.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = module
        self._names = module.__dict__

    def run(self, code: str) -> Shown:
        """Run one cell; nothing that it raises comes out."""
        self._count += 1
        place = f"<cell {self._count}>"
        linecache.cache[place] = (len(code), None, code.splitlines(keepends=True), place)
        try:
            return Shown(self._value(code, place), "")
        except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt are the cell's, too
            return Shown("", describe(error))

    def _value(self, code: str, place: str) -> str:
        tree = ast.parse(code, place)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        run = compile(tree, place, "exec", dont_inherit=True)
        show = None
        if isinstance(last, ast.Expr):
            show = compile(ast.Expression(last.value), place, "eval", dont_inherit=True)
        exec(run, self._names)  # noqa: S102  # what the sandbox is for
        if show is None:
            return ""
        value = eval(show, self._names)  # noqa: S307  # the same
        if value is None:
            return ""
        self._names["_"] = value
        return clip_text(repr(value), self._max_chars)


def describe(error: BaseException) -> str:
    """A traceback of the cells' own lines, and where in a library it ended; short whatever was raised."""
    if isinstance(error, SyntaxError):
        lines = ["".join(traceback.format_exception_only(error))]
    else:
        lines = [*_frames(error), f"{type(error).__name__}: {_message(error)}".rstrip(": ")]
    if isinstance(error, PermissionError):
        lines.append(REFUSED_HINT)
    return clip_text("\n".join(line.rstrip() for line in lines), 2 * _MAX_MESSAGE)


def _message(error: BaseException) -> str:
    try:
        return clip_text(str(error), _MAX_MESSAGE)
    except BaseException as second:  # noqa: BLE001  # its __str__ is the cell's code as well
        return f"(its text cannot be shown: {type(second).__name__})"


def _frames(error: BaseException) -> list[str]:
    own, library = [], ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if name.startswith("<cell "):
            own.append((name.strip("<>"), number, frame.f_code.co_name, linecache.getline(name, number)))
            library = ""
        elif own:  # the frames before are ours
            module: Any = frame.f_globals.get("__name__")
            library = f"  in {module}, line {number}, {frame.f_code.co_name}"
    shown = own if len(own) <= _MAX_FRAMES else [own[0], *own[1 - _MAX_FRAMES :]]
    lines = []
    for place, number, function, text in shown:
        where = f"  {place}, line {number}" + (f", in {function}" if function != "<module>" else "")
        lines.append(where)
        if text.strip():
            lines.append(f"    {clip_text(text.strip(), _MAX_LINE)}")
    if len(shown) < len(own):
        lines.insert(2, f"  [... {len(own) - len(shown)} more calls ...]")
    return [*lines, library] if library else lines
