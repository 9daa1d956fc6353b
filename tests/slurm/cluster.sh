#!/usr/bin/env bash
# A real SLURM of two nodes on one machine, for root on Debian (apt-get install slurm-wlm munge).
#   cluster.sh start FOLDER    FOLDER gets the configuration, logs and spool; prints what to export
#   cluster.sh stop FOLDER
set -euo pipefail
folder=$(mkdir -p "$2" && cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

start() {
  mkdir -p /run/munge "$folder"/{ctld,n1,n2} && chown munge: /run/munge
  [ -s /etc/munge/munge.key ] || { mungekey -c -f && chown munge: /etc/munge/munge.key; }
  munge -n > /dev/null 2>&1 || runuser -u munge -- munged
  cat > "$SLURM_CONF" <<EOF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=60
MinJobAge=3600
SlurmdParameters=config_overrides
StateSaveLocation=$folder/ctld
SlurmctldPidFile=$folder/ctld.pid
SlurmctldLogFile=$folder/ctld.log
SlurmdSpoolDir=$folder/%n
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/%n.log
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=4000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=60 State=UP
EOF
  # The state of jobs of earlier clusters in this folder is dropped (-c).
  nice -n 19 slurmctld -c
  nice -n 19 slurmd -N n1
  nice -n 19 slurmd -N n2
  for _ in $(seq 50); do sinfo -h -t idle -o %D 2> /dev/null | grep -qx 2 && break; sleep 0.2; done
  sinfo >&2
  echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
  for name in n1 n2 ctld; do
    [ -s "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")" 2> /dev/null || true
  done
}

"$1"
