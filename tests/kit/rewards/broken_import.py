"""A module that cannot be imported, in the way that its environment says."""

import os
import time

HOW = os.environ.get("BROKEN_IMPORT", "raise")

if HOW == "raise":
    raise RuntimeError("no licence found")
if HOW == "exit":
    os._exit(0)
if HOW == "hang":
    time.sleep(600)
