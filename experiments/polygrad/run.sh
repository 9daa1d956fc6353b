#!/usr/bin/env bash
# Does PolyGRAD learn online, how does its error grow with the horizon, and is it of use offline?
# Half an hour to two hours a part on two cores; the runs lie in runs/, the rest in runs/experiments/polygrad/.
set -euo pipefail
. "$(dirname "$0")/../parts.sh"
OUT=runs/experiments/polygrad
PARTS='online         1 to 2 h: 50,000 steps of hopper, seed 0
model_free     a minute for PPO, and TRPO and A2C; needs pip install stable-baselines3 sb3-contrib
entropy        not noted: imagined actions at several standard deviations of the policy; after online
horizon        30 min: error by row of PolyGRAD and five other world models
ablations      7 min: the same without single parts of PolyGRAD; after horizon
offline        30 min: the guidance of PolyGRAD and of PGD on the same prior, IQL on hopper
offline_world  not noted: the world model of PolyGRAD as generator, IQL on hopper'

online() { pgd train -cn polygrad env=hopper scale=laptop runs_dir=$OUT; }
model_free() {
  local algorithm
  for algorithm in ppo trpo a2c; do
    python experiments/polygrad/model_free.py $algorithm hopper 50000 5000 0 $OUT/$algorithm.json
  done
}
entropy() { python experiments/polygrad/entropy.py "$(newest $OUT/online/hopper/*/0)" $OUT; }

MODELS="env=hopper-medium data.source=local $EARLIER world.steps=10000 step_world.steps=10000 world.padded=false"
horizon() { python experiments/polygrad/horizon.py models $OUT/horizon.json $MODELS; }
ablations() { python experiments/polygrad/horizon.py ablations $OUT/ablations.json $MODELS; }

OFFLINE="env=hopper-medium data.source=local $EARLIER world.steps=10000"
offline() {
  pgd train $OFFLINE generator=polygrad_prior compare=[none,pgd]
  pgd train $OFFLINE sampler=euler_ancestral compare=[]
}
offline_world() {
  pgd train $OFFLINE generator=polygrad world.padded=false compare=[]
  pgd train $OFFLINE generator=polygrad compare=[]
  pgd train $OFFLINE generator=polygrad data.horizon=10 compare=[]
}

choose "$@"
