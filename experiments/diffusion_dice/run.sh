#!/usr/bin/env bash
# Does guide-then-select win: on a bandit, and with 5,000 updates on hopper and maze2d?
# A minute (bandit) to 25 minutes on two cores; the runs lie in runs/, the rest in runs/experiments/diffusion_dice/.
set -euo pipefail
. "$(dirname "$0")/../parts.sh"
OUT=runs/experiments/diffusion_dice
PARTS='bandit           1 min: 1,500 actions on a ring
bandit_coverage  1 min: a fifth of the data, half of the ring dropped
hopper           25 min: Diffusion-DICE, IQL and TD3+BC, and other decisions of the finished agents
maze2d           25 min: the same
speed            not noted: actions a second beside the public structure'

bandit() { python experiments/diffusion_dice/bandit.py experiments/diffusion_dice/bandit.yaml $OUT/bandit; }
bandit_coverage() {
  python experiments/diffusion_dice/bandit.py experiments/diffusion_dice/bandit_coverage.yaml $OUT/bandit_coverage
}

small_runs() { # of an environment and an agent
  local real="env=$1 data.source=local scale=laptop generator=none compare=[]" agent
  pgd train $real agent=$2 runs_dir=$OUT
  for agent in iql td3_bc; do pgd train $real agent=$agent; done
  python experiments/diffusion_dice/decisions.py "$(newest $OUT/agent/$1/*/0)" 10 $OUT/decisions_$1.json
}
hopper() { small_runs hopper-medium diffusion_dice; }
maze2d() { small_runs maze2d-umaze diffusion_dice_recorded; }

speed() { python benchmarks/diffusion_dice.py; }

choose "$@"
