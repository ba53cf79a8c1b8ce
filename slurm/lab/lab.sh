# shellcheck shell=bash disable=SC2034
# Settings of a lab, read by up.sh, down.sh and node.sh. Everything of it lies under $LAB, nothing under /etc.
: "${LAB_ID:=0}"   # 0 to 99: labs with other numbers live side by side
: "${LAB:=${TMPDIR:-/tmp}/aimo-slurm-lab-$LAB_ID}"
: "${NODES:=4}"    # node1, node2, ...
: "${GPUS:=2}"     # fake ones of a node
: "${CPUS:=8}"     # of a node, as many as it claims
: "${MEMORY:=8000}" # MiB of a node, claimed
: "${SMALL_DISK:=64m}" # size of the disk at $LAB/small, which all nodes see
NET=10.87.$LAB_ID  # .1 is the login node, .11 node1
BRIDGE=aimolab$LAB_ID
PREFIX=aimo${LAB_ID}n # of network namespaces
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SLURM_CONF=$LAB/etc/slurm.conf

running() { # running PID NAME: a process of this id lives, is no zombie, and is the one that we started
  [ -n "$1" ] && grep -qs '^State:.[^Z]' "/proc/$1/status" && tr '\0' ' ' < "/proc/$1/cmdline" | grep -q "$2"
}
ended() { ! running "$@"; }
await() { # await SECONDS WHAT COMMAND...
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    if [ "$SECONDS" -ge "$until" ]; then
      echo "slurm lab: timed out: $what; logs are in $LAB/log" >&2
      return 1
    fi
    sleep 0.1
  done
}
