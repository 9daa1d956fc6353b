#!/usr/bin/env bash
# How good are the policies that record the substitute datasets of the four bodies?
# 75 minutes for all on two cores; weights and learning curves lie in runs/experiments/behaviour/.
set -euo pipefail
. "$(dirname "$0")/../parts.sh"
OUT=runs/experiments/behaviour
PARTS='hopper       11 min
halfcheetah  12 min
walker2d     25 min
ant          27 min'

trained() { # a body, for so many steps
  mkdir -p $OUT/weights $OUT/curves
  python experiments/behaviour/train.py --task $1 --max-steps $2 --out $OUT/weights --curve $OUT/curves
}
hopper() { trained hopper 3000000; }
halfcheetah() { trained halfcheetah 3000000; }
walker2d() { trained walker2d 3000000; }
ant() { trained ant 1500000; }

choose "$@"
