#!/usr/bin/env bash
# Ends what up.sh started, by the process ids that it wrote down, and nothing else.
set -euo pipefail
# shellcheck source=slurm/lab/lab.sh
. "$(dirname "$(readlink -f "$0")")/lab.sh"
shopt -s nullglob
for file in "$LAB"/run/node*.pid; do
  number=${file##*/node}
  "$HERE/node.sh" kill "${number%.pid}"
done
for daemon in slurmctld slurmdbd mariadbd munged; do
  pid=$(cat "$LAB/run/$daemon.pid" 2> /dev/null || true)
  if running "$pid" "$daemon"; then
    kill "$pid"
    await 10 "$daemon to end" ended "$pid" "$daemon" || kill -9 "$pid"
  fi
done
for namespace in /run/netns/"$PREFIX"*; do
  name=${namespace##*/}
  ip link del "v$name" 2> /dev/null || true
  ip netns del "$name"
done
ip link del "$BRIDGE" 2> /dev/null || true
if mountpoint -q "$LAB/small"; then umount --lazy "$LAB/small"; fi
