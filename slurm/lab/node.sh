#!/usr/bin/env bash
# node.sh start|kill|cut|join|enter NUMBER [COMMAND...]: boot a node, power it off (SIGKILL to all of it),
# pull its network cable, plug it in, run a command on it.
set -euo pipefail
# shellcheck source=slurm/lab/lab.sh
. "$(dirname "$(readlink -f "$0")")/lab.sh"
action=$1
number=$2
shift 2
node=node$number
pidfile=$LAB/run/$node.pid
pid=$(cat "$pidfile" 2> /dev/null || true)
case $action in
  start)
    if running "$pid" unshare; then exit 0; fi
    mkdir -p "$LAB/spool.$node"
    # The shell stays as the namespace's first process and reaps orphans; killing it kills everything there.
    # shellcheck disable=SC2016
    NODE=$node LAB=$LAB setsid nsenter --net="/run/netns/$PREFIX$number" \
      unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc --propagation private bash -c '
        unset HOSTNAME
        hostname "$NODE"
        mount --bind "$LAB/etc/hosts" /etc/hosts
        mount --bind "$LAB/etc/nsswitch.conf" /etc/nsswitch.conf
        mount -t tmpfs -o mode=1777 tmpfs /dev/shm
        slurmd -D -N "$NODE" &
        while :; do sleep 3600 & wait "$!"; done' > "$LAB/log/$node.out" 2>&1 < /dev/null &
    echo $! > "$pidfile"
    ;;
  kill)
    if running "$pid" unshare; then kill -9 "$pid"; fi
    await 5 "$node to end" ended "$pid" unshare
    rm -f "$pidfile"
    ;;
  cut) ip link set "v$PREFIX$number" down ;;
  join) ip link set "v$PREFIX$number" up ;;
  enter)
    read -r first _ < "/proc/$pid/task/$pid/children" || [ -n "$first" ]
    exec nsenter --target "$first" --all -- "$@"
    ;;
  *)
    echo "node.sh: unknown action $action" >&2
    exit 2
    ;;
esac
