#!/usr/bin/env bash
# A real Slurm of several nodes on this machine, with accounting: each node is a network, UTS, PID and mount
# namespace with its own address, hostname, /dev/shm, slurmd and fake GPUs. Needs root, and Debian or Ubuntu
# for the packages. Partitions: batch; low, whose jobs batch's preempt after 15 seconds' notice; and now, whose
# jobs get no notice. Afterwards: . $LAB/activate
set -euo pipefail
# shellcheck source=slurm/lab/lab.sh
. "$(dirname "$(readlink -f "$0")")/lab.sh"
if [ "$(id -u)" != 0 ]; then
  echo "slurm lab: needs root, for namespaces" >&2
  exit 1
fi

# 1. Packages. None of their services is used.
packages=(slurmctld slurmd slurmdbd slurm-client slurm-wlm-mysql-plugin munge mariadb-server-core
  mariadb-client-core iproute2 util-linux)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "slurm lab: installing ${missing[*]}"
  policy=/usr/sbin/policy-rc.d # 101: start no service
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

# 2. A fresh folder
"$HERE/down.sh"
rm -rf "$LAB"
mkdir -p "$LAB"/{etc,run,log,state,dev,small}
chmod 755 "$LAB" "$LAB/run" "$LAB/log"
mount -t tmpfs -o "size=$SMALL_DISK" small "$LAB/small"
host=$(hostname -s)
(umask 077 && head -c 128 /dev/urandom > "$LAB/etc/munge.key")
{
  echo "127.0.0.1 localhost"
  echo "$NET.1 $host login"
  for i in $(seq "$NODES"); do echo "$NET.$((10 + i)) node$i"; done
} > "$LAB/etc/hosts"
sed 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf > "$LAB/etc/nsswitch.conf" # no DNS there: fail at once
for i in $(seq 0 $((GPUS - 1))); do mknod "$LAB/dev/gpu$i" c 1 3; done         # slurmd wants devices: /dev/null's
echo "NodeName=node[1-$NODES] Name=gpu File=$LAB/dev/gpu[0-$((GPUS - 1))]" > "$LAB/etc/gres.conf"

# 3. Configuration. cred_expire shortens the pause before a requeued job starts again, 2 minutes by default.
cat > "$LAB/etc/slurm.conf" << CONF
ClusterName=lab$LAB_ID
SlurmctldHost=$host($NET.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$LAB/run/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
CommunicationParameters=NoCtldInAddrAny
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdPidFile=$LAB/run/slurmd.%n.pid
SlurmdLogFile=$LAB/log/slurmd.%n.log
SlurmdSpoolDir=$LAB/spool.%n
StateSaveLocation=$LAB/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
DefMemPerCPU=500
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=10000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=15
SlurmctldTimeout=30
SlurmdTimeout=15
TCPTimeout=2
MessageTimeout=10
BatchStartTimeout=20
UnkillableStepTimeout=20
InactiveLimit=0
FirstJobId=$((($(date +%s) % 600000) * 100 + 1000))
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$NET.1
AccountingStoragePort=16819
AccountingStoragePass=$LAB/run/munge.socket
AccountingStorageTRES=gres/gpu
$(for i in $(seq "$NODES"); do
  echo "NodeName=node$i NodeAddr=$NET.$((10 + i)) CPUs=$CPUS RealMemory=$MEMORY Gres=gpu:$GPUS State=UNKNOWN"
done)
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=15
PartitionName=now Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0
CONF
(
  umask 077
  cat > "$LAB/etc/slurmdbd.conf" << CONF
AuthType=auth/munge
AuthInfo=socket=$LAB/run/munge.socket
DbdHost=$host
DbdAddr=$NET.1
DbdPort=16819
SlurmUser=root
PidFile=$LAB/run/slurmdbd.pid
LogFile=$LAB/log/slurmdbd.log
CommunicationParameters=NoInAddrAny
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
CONF
)

# 4. Network: a bridge here, and a namespace with one cable to it for each node
ip link add "$BRIDGE" type bridge
ip addr add "$NET.1/24" dev "$BRIDGE"
ip link set "$BRIDGE" up
for i in $(seq "$NODES"); do
  name=$PREFIX$i
  ip netns add "$name"
  ip link add "v$name" type veth peer name eth0 netns "$name"
  ip link set "v$name" master "$BRIDGE" up
  ip -n "$name" addr add "$NET.$((10 + i))/24" dev eth0
  ip -n "$name" link set eth0 up
  ip -n "$name" link set lo up
done

# 5. Daemons. Two of them listen at the address of this host's own name: in their eyes it is $NET.1.
on_login() {
  # shellcheck disable=SC2016
  unshare --mount --propagation private bash -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$LAB/etc/hosts" "$@"
}
munged --key-file="$LAB/etc/munge.key" --socket="$LAB/run/munge.socket" --pid-file="$LAB/run/munged.pid" \
  --log-file="$LAB/log/munged.log" --seed-file="$LAB/run/munged.seed"
mariadb-install-db --no-defaults --user=root --datadir="$LAB/mysql" --skip-test-db \
  --auth-root-authentication-method=socket > "$LAB/log/mariadb-install.log" 2>&1
setsid mariadbd --no-defaults --user=root --datadir="$LAB/mysql" --socket="$LAB/run/mysql.sock" --skip-networking \
  --pid-file="$LAB/run/mariadbd.pid" --innodb-buffer-pool-size=32M --innodb-log-file-size=16M \
  --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 --performance-schema=OFF \
  > "$LAB/log/mariadbd.log" 2>&1 < /dev/null &
await 30 "mariadbd" test -S "$LAB/run/mysql.sock"
MYSQL_UNIX_PORT=$LAB/run/mysql.sock on_login slurmdbd
await 30 "slurmdbd" sacctmgr -n show cluster
sacctmgr -i -Q add cluster "lab$LAB_ID" > "$LAB/log/sacctmgr.log" 2>&1 || true # slurmctld may have been first
on_login slurmctld
await 20 "slurmctld" scontrol ping
for i in $(seq "$NODES"); do "$HERE/node.sh" start "$i"; done
all_idle() { [ "$(sinfo -h -N -p batch -t idle -o %N | wc -l)" = "$NODES" ]; }
await 40 "all nodes to be idle" all_idle
timeout 30 srun --nodes="$NODES" true
recorded() { sacct -nXP -S now-1hours -o State | grep -q COMPLETED; }
await 30 "sacct to know of the first step" recorded # the first record takes seconds
echo "export SLURM_CONF=$SLURM_CONF" > "$LAB/activate"
