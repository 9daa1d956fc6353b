#!/usr/bin/env bash
# Do agents score higher with unguided or guided windows than with real data alone?
# A quarter of an hour to several hours a part on two cores; the runs, their scores and reports lie in runs/.
set -euo pipefail
. "$(dirname "$0")/../parts.sh"
PARTS='now                  22 min of processor time: IQL on hopper, the defaults of now
literal              16 min: the literal rule at 0.5
literal_6000         19 min: the same with 6,000 steps of the prior
substitute           16 min without PETS: the earlier prior
smaller              16 min: a tenth and a hundredth of the recording
halfcheetah          an hour for three seeds of a condition: TD3+BC on random actions, real and guided data, twelve seeds
halfcheetah_first    an hour for three seeds of a condition: unguided, twelve seeds; the literal rule, three
less_cloning         45 min a condition: random actions with a weaker cloning term, real and guided data, three seeds
maze2d_dense         50 min a condition: TD3+BC on the maze with dense rewards, real and guided data, three seeds
medium_replay        50 min a condition: TD3+BC on policies of all stages up to the medium one, real, guided, unguided, less cloning
misled               65 min a condition: the same with recorded windows, four times as many windows, the other sampler
returns              2 min a run: what policies earn, what critics expect and windows pay, in all of these finished runs
td3_bc               not noted: TD3+BC on hopper
td3_bc_maze2d        not noted: TD3+BC on maze2d, 20,000 updates'

now() { pgd train env=hopper-medium data.source=local scale=laptop; }
literal() { pgd train env=hopper-medium data.source=local scale=laptop guidance=literal guidance.coef=0.5 $SLOWER; }
literal_6000() {
  pgd train env=hopper-medium data.source=local scale=laptop guidance=literal guidance.coef=0.5 prior.steps=6000 $SLOWER
}

substitute() {
  pgd train env=hopper-medium data.source=local $EARLIER
  pgd train env=hopper-medium data.source=local $EARLIER compare=[none,unguided,pets]
}
smaller() {
  for rows in 10000 1000; do pgd train env=hopper-medium data.source=local data.local_steps=$rows $EARLIER; done
}

LONGER="physics=d4rl data.source=local agent=td3_bc scale=laptop seeds=3 updates=40000 learning.rate=3e-4 prior.steps=6000
  synthetic.lifetime=2500 evaluation.every=10000 evaluation.episodes=10"
HALFCHEETAH="env=halfcheetah-random data.local_steps=1000000 $LONGER $SLOWER"
halfcheetah() {
  for seed in 0 3 6 9; do pgd train $HALFCHEETAH seed=$seed compare=[none]; done
}
halfcheetah_first() {
  for seed in 0 3 6 9; do pgd train $HALFCHEETAH seed=$seed generator=unguided compare=[]; done
  pgd train $HALFCHEETAH guidance=literal guidance.coef=2 compare=[]
}
less_cloning() { pgd train $HALFCHEETAH compare=[none] agent.learner.q_weight=10; }
maze2d_dense() {
  local dense="env=maze2d-umaze-dense data.local_steps=1000000 $LONGER"
  pgd train $dense compare=[]
  pgd train $dense generator=none compare=[] agent.value_alarm=warn
}
REPLAY="env=halfcheetah-medium-replay data.local_steps=200000 $LONGER"
medium_replay() {
  pgd train $REPLAY compare=[none,unguided]
  pgd train $REPLAY generator=none compare=[] agent.learner.q_weight=10
}
misled() {
  pgd train $REPLAY generator=recorded compare=[]
  pgd train $REPLAY synthetic.num_windows=2048 compare=[unguided]
  pgd train $REPLAY generator=unguided sampler=dpmpp_2m_sde compare=[]
}
returns() { python experiments/main_job/returns.py runs/agent/halfcheetah-*/td3_bc-*/*; }

td3_bc() { pgd train env=hopper-medium agent=td3_bc data.source=local $EARLIER compare=[none,unguided]; }
td3_bc_maze2d() {
  pgd train env=maze2d-umaze agent=td3_bc data.source=local $EARLIER updates=20000 evaluation.every=5000 \
    synthetic.lifetime=5000 compare=[none,unguided]
}

choose "$@"
