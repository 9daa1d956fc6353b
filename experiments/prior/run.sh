#!/usr/bin/env bash
# Which network, optimizer and sampler has the least error for equal time, and what does guidance cost in accuracy?
# 5 minutes a run, 15 a policy, on two cores; recordings and ledgers lie in runs/experiments/prior/.
set -euo pipefail
. "$(dirname "$0")/../parts.sh"
OUT=runs/experiments/prior
PARTS='recordings  not noted: the five substitute datasets, which the others need
headline    5 min a run: the default and the published network, three seeds of each recording
compare     5 min a run: all that plan.yaml lists
variance    5 min a policy: the variance that samplers keep, under the finished agents on guided data in runs/
guided      15 min a policy: TD3+BC on halfcheetah-random and maze2d, IQL on hopper-medium and walker2d-medium'

planned() { # plan.yaml with the recordings that can be made here
  sed '/pen-expert/d; s/-local/-own/g' experiments/prior/plan.yaml > $OUT/plan.yaml
}
recordings() {
  local env
  pgd collect env=halfcheetah-random physics=d4rl steps=1000000 out=$OUT/halfcheetah-random-own.hdf5
  for env in hopper-medium halfcheetah-medium walker2d-medium maze2d-umaze; do
    pgd collect env=$env out=$OUT/$env-own.hdf5
  done
}
headline() {
  planned
  sed -n '/^  - \[/!p; /^  - \[unet,/p; /^  - \[resnet-muon,/p' $OUT/plan.yaml > $OUT/headline.yaml
  python experiments/prior/compare.py --data $OUT --budget 240 --plan $OUT/headline.yaml --ledger $OUT/ledger.jsonl
}
compare() {
  planned
  python experiments/prior/compare.py --data $OUT --budget 240 --plan $OUT/plan.yaml --ledger $OUT/ledger.jsonl
}
variance() {
  python experiments/prior/variance.py $OUT/variance.jsonl runs/agent/*/*-pgd-*/*
}
guided() {
  local ledger="--plan $OUT/plan.yaml --ledger $OUT/guided.jsonl"
  planned
  python experiments/prior/guided.py --data $OUT --body halfcheetah-random-own --agent td3_bc $ledger --set $SLOWER
  python experiments/prior/guided.py --data $OUT --body hopper-medium-own --agent iql $ledger --set $SLOWER
  python experiments/prior/guided.py --data $OUT --body maze2d-umaze-own --agent td3_bc $ledger
  python experiments/prior/guided.py --data $OUT --body walker2d-medium-own --agent iql $ledger
}

choose "$@"
