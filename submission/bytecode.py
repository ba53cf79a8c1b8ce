"""Compiles what an installed environment will import, on all of the machine's cores, before anything starts.

pip compiles every file of every wheel, one after another: half of an install's time, and three files in four
are never imported. Nothing compiled means that each of the contest's processes compiles the same 5,600
files again (they run with `-B`), so the likely ones are compiled once, on all cores. A file left
out is compiled in memory by who imports it: the lists below cost or save time, and can break nothing.
Only the standard library is used, since this runs where only the wheels are installed.
"""

import compileall
import multiprocessing
import os
import re
import sys
import sysconfig
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

TESTS = ("test", "tests")
"""Folders of these names are left out wherever they are."""
SELDOM = (
    "anthropic",
    "cv2",
    "openai/resources",
    "pip",
    "pygments",
    "sentry_sdk",
    "setuptools",
    "supervisor",
    "torch/testing",
    "transformers/models",
    "vllm/model_executor/models",
    "vllm/models",
)
"""Large folders of which a contest imports nothing, or a few files (one model of hundreds). None that a
model's own Python code might import: it would be compiled again in each of its cells."""


def left_out(site: Path) -> re.Pattern[str]:
    """What paths below the folder `site` have in front when they are not compiled ahead."""
    names, folders = "|".join(TESTS), "|".join(SELDOM)
    return re.compile(rf"{re.escape(str(site))}/(?:(?:.*/)?(?:{names})|{folders})/")


def compile_ahead(site: Path) -> float:
    """Compile the files below `site` that a contest is likely to import; returns the seconds it took.

    A file that is no Python of this version is passed over, as pip does.

    Raises:
        OSError: nothing can be written there.
        BrokenProcessPool: a worker was killed.
    """
    started = time.monotonic()
    skipped = left_out(site)
    files = [path for path in sorted(site.rglob("*.py")) if not skipped.match(str(path))]
    # Since Python 3.12 `compile_dir` asks a server for its workers, by a socket below TMPDIR: a folder with a
    # long path has no room for its name.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        for _ in pool.map(partial(compileall.compile_file, quiet=2), files, chunksize=16):
            pass
    return time.monotonic() - started


def main() -> None:
    """Compile ahead in the environment whose Python runs this; where that fails, say so and go on."""
    site = Path(sysconfig.get_path("purelib"))
    try:
        seconds = compile_ahead(site)
    except (OSError, BrokenProcessPool) as error:
        # Whoever imports a file compiles it then: a slower start, not a failed one.
        sys.stdout.write(f"not compiled ahead: {type(error).__name__}: {error}\n")
        return
    sys.stdout.write(f"compiled ahead in {seconds:.1f} s\n")


if __name__ == "__main__":
    main()
