#!/usr/bin/env bash
# Are generated windows accurate, likely under the policy and like the data, and does the score follow?
# Minutes to hours a part on two cores; the analyses lie in runs/, what the scripts write in runs/experiments/fidelity/.
set -euo pipefail
. "$(dirname "$0")/../parts.sh"
OUT=runs/experiments/fidelity
PARTS='hopper           10 to 30 min: four baselines beside the prior, four policies, and scores
hopper_long      two thirds of an hour: prior and PETS with 40,000 steps
maze2d           10 to 30 min: PETS beside the prior, and scores
sampler          not noted: DPM-Solver++(2M), ancestral Euler and the published sampler
length           half an hour an environment: errors over the length of a window, PGD beside PETS, five policies
strength         not noted: what guidance.strength means for two bodies and two agents
pen              not noted: the expert of Adroit'"'"'s pen; PEN= names a file of its policy, such as D4RL'"'"'s
pen_synthetic    not noted: the same without real rows in the batches'

hopper() {
  pgd analyse env=hopper-medium data.source=local $EARLIER analysis.generators=[pets,synther,vae,autoregressive] \
    analysis.targets=[behaviour,agent,ppo:2,ppo]
  pgd train env=hopper-medium data.source=local $EARLIER compare=[none,unguided,pets]
}
hopper_long() {
  local long="env=hopper-medium data.source=local $EARLIER prior.steps=40000 ensemble.steps=40000"
  pgd analyse $long analysis.targets=[agent]
  pgd train $long compare=[none,unguided,pets]
}
maze2d() {
  pgd analyse env=maze2d-umaze data.source=local $EARLIER
  pgd train env=maze2d-umaze data.source=local $EARLIER compare=[none,unguided,pets]
}
sampler() {
  local windows="env=hopper-medium data.source=local $EARLIER analysis.targets=[agent] analysis.generators=[]
    analysis.factors=[1] analysis.windows=256"
  pgd analyse $windows
  pgd analyse $windows sampler=euler_ancestral
  pgd analyse $windows sampler=heun_churn guidance.coef=1
}

length() {
  local env
  for env in hopper-medium halfcheetah-medium walker2d-medium; do
    python experiments/fidelity/length.py $OUT/length.jsonl $env data.source=local prior.steps=1200 ensemble.steps=12000 \
      $SLOWER
  done
  python experiments/fidelity/length.py $OUT/length.jsonl
}

strength() { # the defaults of now
  local env agent runs=$OUT/strength policies=() settings
  settings="scale=laptop prior.steps=2000 $SLOWER runs_dir=$runs"
  for env in hopper-medium maze2d-umaze; do
    pgd collect env=$env out=$OUT/$env.hdf5
    pgd prior env=$env data.source=$OUT/$env.hdf5 $settings
    for agent in td3_bc iql; do
      pgd train env=$env data.source=$OUT/$env.hdf5 $settings agent=$agent seeds=2 updates=2000 generator=none compare=[]
    done
    policies+=("$OUT/$env.hdf5=$(newest $runs/agent/$env/td3_bc-*/0),$(newest $runs/agent/$env/iql-*/0)")
  done
  python experiments/fidelity/strength.py $runs $OUT/strength.jsonl "${policies[@]}"
  python experiments/fidelity/strength.py $OUT/strength.jsonl
}

recorded_pen() { # 100,000 steps of a network fitted to the policy of the file
  : "${PEN:?names no file: the pen expert cannot be recorded here}"
  [ -e $OUT/pen.hdf5 ] || python experiments/fidelity/pen.py "$PEN" 100000 $OUT/pen.hdf5
  PRIOR="env=pen-expert data.source=$OUT/pen.hdf5 $EARLIER prior.steps=20000"
}
pen() {
  recorded_pen
  pgd train $PRIOR network.features=128 compare=[none,unguided]
  pgd analyse $PRIOR network.features=128 analysis.targets=[agent] analysis.generators=[] \
    analysis.factors=[0.5,1,2,4,8,16,32]
  pgd analyse $PRIOR analysis.targets=[agent]
}
pen_synthetic() {
  recorded_pen
  pgd train $PRIOR network.features=128 compare=[unguided] synthetic.synthetic_batch=256 guidance.coef=2
}

choose "$@"
