#!/usr/bin/env bash
# Does bfloat16 change what comes out of training or of sampling?
# 10 minutes for all on two cores; the analyses lie in runs/.
set -euo pipefail
. "$(dirname "$0")/../parts.sh"
PARTS='training    10 min with the two below: 600 steps on maze2d, three seeds, in both precisions
longer      counted above: 3,000 steps on hopper, one seed, in both precisions
sampling    counted above: the network of the finished prior alone, in both precisions'
WINDOWS="analysis.targets=[behaviour] analysis.generators=[] analysis.factors=[1]"

training() {
  local seed precision
  for seed in 0 1 2; do
    for precision in 32-true bf16-mixed; do
      pgd analyse env=maze2d-umaze data.source=local $EARLIER scale=smoke prior.steps=600 seed=$seed \
        trainer.precision=$precision $WINDOWS analysis.windows=512 analysis.rows=4000
    done
  done
}
longer() {
  local precision
  for precision in 32-true bf16-mixed; do
    pgd analyse env=hopper-medium data.source=local $EARLIER prior.steps=3000 trainer.precision=$precision $WINDOWS
  done
}
sampling() {
  local precision
  for precision in float32 bfloat16; do
    pgd analyse env=hopper-medium data.source=local $EARLIER sampler.precision=$precision $WINDOWS
  done
}

choose "$@"
