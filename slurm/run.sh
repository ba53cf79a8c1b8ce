#!/usr/bin/env bash
# run.sh MODULE [ARGUMENTS...]: a module of the kit under the site's settings, on this node of a job.
set -euo pipefail
trap '' TERM # until the module listens
export AIMO_ROOT=${AIMO_ROOT:-$SLURM_SUBMIT_DIR}
site=${AIMO_SITE:-$AIMO_ROOT/slurm/site.env}
set +u # conda's and modules' scripts read variables that are not set
# shellcheck source=/dev/null
if [ -f "$site" ]; then . "$site"; fi
set -u
# The code of AIMO_ROOT, wherever the job was submitted from; the folder it was submitted from comes after it.
export PYTHONSAFEPATH=1 PYTHONPATH=$AIMO_ROOT:$PWD${PYTHONPATH:+:$PYTHONPATH}
exec "${AIMO_PYTHON:-python}" -m "$@"
