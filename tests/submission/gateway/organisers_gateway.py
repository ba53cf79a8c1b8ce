"""The organiser's own gateway as in a rerun, in the current folder: run by its path, with any Python.

    python organisers_gateway.py FOLDER TEST_CSV CALL_SECONDS STARTUP_SECONDS PAUSE_SECONDS

FOLDER holds the real `kaggle_evaluation`. Only three things differ from a rerun: the server is at localhost,
the limits are those given, and there is a pause after each answer. `asked.txt` counts the answers so far.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any


def main(folder: str, test_csv: str, call: float, startup: float, pause: float) -> None:
    """Play the whole test set; leaves result.json and, if the run counts, submission.parquet."""
    import importlib

    os.environ["KAGGLE_IS_COMPETITION_RERUN"] = "1"
    sys.path[:0] = [folder, f"{folder}/kaggle_evaluation"]
    relay: Any = importlib.import_module("kaggle_evaluation.core.relay")
    make = relay.Client.__init__

    def at_localhost(client: Any, _address: str = "", *rest: Any, **named: Any) -> None:
        make(client, "localhost", *rest, **named)

    relay.Client.__init__ = at_localhost
    relay.STARTUP_LIMIT_SECONDS = startup
    name = next(Path(folder, "kaggle_evaluation").glob("aimo_*_gateway.py")).stem
    module = importlib.import_module(name)
    make_gateway = next(item for key, item in vars(module).items() if key.startswith("AIMO"))
    # By files up to 1.4, by their folder since 1.7.
    gateway = make_gateway(
        (test_csv,) if hasattr(make_gateway, "unpack_data_paths") else str(Path(test_csv).parent)
    )
    gateway.set_response_timeout_seconds(call)
    ask, answers = gateway.predict, []

    def predict(*given: Any, **named: Any) -> Any:
        answers.append(ask(*given, **named))
        Path("asked.txt").write_text(str(len(answers)))
        time.sleep(pause)
        return answers[-1]

    gateway.predict = predict
    gateway.run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:6]))
