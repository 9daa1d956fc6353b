#!/usr/bin/env bash
# On a real SLURM: an array of two small runs, one put back into the queue by `scontrol
# requeue`, the other told by USR1 that its time is up; then a run on two nodes that loses a process. Each must end with
# the weights of a run that nobody disturbed. For root on Debian with slurm-wlm and munge; takes some minutes.
#   PYTHON=python tests/slurm/requeue.sh [FOLDER]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$(mktemp -d)}
python=${PYTHON:-python3}
export OMP_NUM_THREADS=1 XDG_CACHE_HOME=$folder/cache WANDB_SILENT=true
mkdir -p "$folder" && cd "$folder"

pgd() { nice -n 19 "$python" -m pgd_lightning "$@"; }
show() { echo; echo "\$ $*"; "$@" 2>&1 | sed "s#$folder/##g; s#$folder#.#g"; }
until_there() { for _ in $(seq 1200); do compgen -G "$1" > /dev/null && return; sleep 0.2; done; echo "no $1" >&2; exit 1; }
until_empty() { for _ in $(seq 1800); do [ -z "$(squeue -h)" ] && return; sleep 0.5; done; squeue >&2; exit 1; }

"$here"/cluster.sh start "$folder/cluster" > "$folder/cluster.env"
. "$folder/cluster.env"
trap '"$here"/cluster.sh stop "$folder/cluster"' EXIT

pgd collect env=maze2d-umaze steps=4000 out="$folder/maze.hdf5" > /dev/null
settings=(env=maze2d-umaze data.source="$folder/maze.hdf5" scale=smoke network.features=16 prior.steps=200
  prior.batch_size=16 prior.validate_every=100 prior.checkpoint_every=20 updates=600 checkpoint_every=50
  synthetic.lifetime=200 synthetic.num_windows=8 evaluation.every=300 evaluation.episodes=1
  evaluation.final_episodes=2 sampler.num_steps=4 behaviour.updates=20 health.rows=50 report.windows=8
  "compare=[]" trainer.accelerator=cpu logger.wandb=offline)
array=(launcher.gpus_per_node=0 launcher.cpus_per_task=1 "launcher.time='00:20:00'" launcher.lead=30
  "launcher.setup=['export MASTER_ADDR=127.0.0.1']")  # the nodes' names are not known to this machine's resolver

echo "# Undisturbed, without SLURM"
for agent in iql td3_bc; do pgd train "${settings[@]}" agent=$agent runs_dir=alone > "alone-$agent.log"; done

echo "# An array of two"
show pgd slurm "${settings[@]}" agent=iql,td3_bc runs_dir=runs "${array[@]}"
job=$(squeue -h -o %F | head -n 1)
show squeue -o "%.8i %.12j %.8T %.10M %R"
until_there "runs/agent/*/iql-pgd-*/0/checkpoints/*=000000200.ckpt"
show scontrol requeue "${job}_0"
until_there "runs/agent/*/td3_bc-pgd-*/0/checkpoints/*=000000200.ckpt"
show scancel --signal=USR1 "${job}_1"
sleep 15
show squeue -o "%.8i %.12j %.8T %.10M %R"
show pgd ls runs_dir=runs
for task in 0 1; do scontrol update jobid="${job}_$task" StartTime=now 2> /dev/null || true; done  # requeued jobs begin after 2 minutes
until_empty
show pgd ls runs_dir=runs
show grep -hE "Stopped|continues|Restart|requeue" runs/sweep/*/logs/0.log runs/sweep/*/logs/1.log
show pgd slurm "${settings[@]}" agent=iql,td3_bc runs_dir=runs "${array[@]}"
until_empty
show "$python" "$here"/compare.py alone runs

echo; echo "# Two nodes, one process on each; one of them is killed"
two=(agent=iql runs_dir=two trainer=slurm trainer.accelerator=cpu trainer.devices=1 trainer.num_nodes=2)
show pgd slurm "${settings[@]}" "${two[@]}" "${array[@]}"
until_there "two/agent/*/iql-pgd-*/0/checkpoints/*=000000200.ckpt"
victim=$(for pid in $(pgrep -f "runs_dir=two"); do
  tr '\0' '\n' < "/proc/$pid/environ" 2> /dev/null | grep -qx SLURM_PROCID=1 && grep -qa pgd_lightning "/proc/$pid/cmdline" && echo "$pid"
done | tail -n 1)
echo; echo "\$ kill -9 <process of rank 1>"; kill -9 "$victim"
until_empty
show pgd ls runs_dir=two
show tail -n 4 two/sweep/*/logs/0.log
echo; echo "# The same command again"
show pgd slurm "${settings[@]}" "${two[@]}" "${array[@]}"
until_empty
show pgd ls runs_dir=two
show grep -hE "continues" two/sweep/*/logs/0.log
