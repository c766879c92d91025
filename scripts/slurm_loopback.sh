#!/usr/bin/env bash
# A Slurm of one node on this machine's loopback address, to try `mgr-paper reproduce --profile slurm` without a cluster.
#
#   apt-get install slurm-wlm munge
#   scripts/slurm_loopback.sh up      # as root: keys, configuration, munged, slurmctld, slurmd
#   scripts/slurm_loopback.sh down    # stops what `up` started and removes what it wrote
#   scripts/slurm_loopback.sh status
#
# Needs root, and a machine on which no other Slurm is configured: the configuration must lie in /etc/slurm, since the steps of a
# job do not inherit SLURM_CONF. It pretends to one GPU (a device file that computes nothing), so that a job which asks
# for one can be told from a job which does not. Never for real work: everything runs as root, without limits.
set -euo pipefail
MARK="# made by scripts/slurm_loopback.sh"
CONF=/etc/slurm
STATE=/var/lib/slurm-loopback     # spool, process ids, logs, completed jobs
HOST=$(hostname -s)

say() { echo "slurm_loopback: $*" >&2; }
die() { say "$*"; exit 2; }
ours() { grep -qsF "$MARK" "$CONF/slurm.conf"; }

needs() {
  [ "$(id -u)" = 0 ] || die "needs root, to write $CONF and to start munged, slurmctld and slurmd"
  local tool
  for tool in munged slurmctld slurmd sinfo; do
    command -v $tool >/dev/null || die "$tool is not installed; on Debian: apt-get install slurm-wlm munge"
  done
}

up() {
  needs
  if [ -e $CONF/slurm.conf ] && ! ours; then die "$CONF/slurm.conf is of another Slurm; this script leaves it alone"; fi
  if ours && sinfo >/dev/null 2>&1; then say "already up"; return; fi
  local cpus memory
  cpus=$(nproc --all); memory=$(awk '/MemTotal/ {print int($2/1024*.9)}' /proc/meminfo)
  mkdir -p $CONF $STATE/{ctld,d}
  cat > $CONF/slurm.conf <<END
$MARK
ClusterName=loopback
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/d
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
JobCompType=jobcomp/filetxt
JobCompLoc=$STATE/completed.txt
AccountingStorageType=accounting_storage/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MinJobAge=3600
ReturnToService=2
GresTypes=gpu
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory Gres=gpu:1 State=UNKNOWN
PartitionName=loopback Nodes=$HOST Default=YES MaxTime=INFINITE State=UP
END
  printf '%s\nNodeName=%s Name=gpu File=/dev/null\n' "$MARK" "$HOST" > $CONF/gres.conf
  : > $STATE/completed.txt
  if ! munge -n >/dev/null 2>&1; then
    install -d -o munge -g munge -m 755 /run/munge
    [ -e /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
                                     chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
    runuser -u munge -- munged --pid-file=/run/munge/loopback.pid
  fi
  slurmctld -c
  slurmd
  for _ in $(seq 30); do
    if sinfo -h -o %t 2>/dev/null | grep -qE '^(idle|mix|alloc)'; then sinfo -N -o "%N %t %c CPUs %m MB %G" >&2; return; fi
    sleep 1
  done
  tail -n 5 $STATE/*.log >&2
  die "no node came up in 30 s; see $STATE/*.log"
}

stop() {  # stop FILE: the process whose id stands in FILE, if it is there
  [ -s "$1" ] && kill "$(cat "$1")" 2>/dev/null && say "stopped $(basename "$1" .pid)" || true
}

down() {
  needs
  ours || die "$CONF/slurm.conf is not from this script; nothing to take down"
  scancel --user=root 2>/dev/null || true
  stop $STATE/slurmd.pid; stop $STATE/slurmctld.pid; stop /run/munge/loopback.pid
  rm -f $CONF/slurm.conf; if grep -qsF "$MARK" $CONF/gres.conf; then rm -f $CONF/gres.conf; fi
  say "down; logs are kept in $STATE"
}

case "${1:-}" in
  up) up ;;
  down) down ;;
  status) ours && sinfo && squeue --states=all -o "%i %j %T %M %C %m %b" ;;
  *) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2 ;;
esac
