# Sourced by the run.sh of each experiment, which names its parts in PARTS and has a function for each of them.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ ! -d .venv ] || PATH=$PWD/.venv/bin:$PATH

# The learning rate that the prior of scale=laptop had until November 2026
SLOWER="prior.learning_rate=2e-3"

# The prior, the sampler and the guidance that scale=laptop had when most of the numbers were made
EARLIER="scale=laptop network=temporal_unet sampler=dpmpp_2m prior.steps=10000 prior.muon=false prior.ema_ramp=null"
EARLIER="$EARLIER $SLOWER guidance=literal guidance.coef=0.5"

newest() { # of several files or folders
  ls -td "$@" | head -n 1
}

choose() { # run the parts that are named; without a name, list all
  local names part
  names=$(cut -d ' ' -f 1 <<< "$PARTS")
  if [ $# = 0 ]; then
    printf '%s\n' "$PARTS" "all: one after the other; several names: these"
    return
  fi
  [ "$1" != all ] || set -- $names
  for part in "$@"; do
    grep -qxF -e "$part" <<< "$names" || { echo "There is no part $part; without a name, they are listed." >&2; exit 2; }
  done
  command -v pgd > /dev/null || { echo "pgd is missing: make .venv/.installed" >&2; exit 1; }
  mkdir -p "${OUT:-runs}"
  for part in "$@"; do "$part"; done
}
