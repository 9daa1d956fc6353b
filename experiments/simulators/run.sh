#!/usr/bin/env bash
# Does a step from a recorded state lead to the recorded next state?
# 5 minutes on two cores; prints its tables, and writes runs/check/ and runs/experiments/simulators/.
set -euo pipefail
. "$(dirname "$0")/../parts.sh"
OUT=runs/experiments/simulators
PARTS='recordings  5 min: 2,000 rows of the substitute datasets under both physics
versions    not noted: one step of every task in MuJoCo 4.0, which it installs beside'

recordings() {
  local env
  for env in hopper-medium walker2d-medium halfcheetah-medium ant-medium maze2d-umaze; do
    pgd check env=$env data.source=local
  done
}
versions() {
  python experiments/simulators/mujoco_versions.py record $OUT/states.pkl
  python -m pip install --no-deps --target $OUT/mujoco mujoco==4.0.0 mujoco-core==4.0.0
  PYTHONPATH=$OUT/mujoco python experiments/simulators/mujoco_versions.py compare $OUT/states.pkl
}

choose "$@"
