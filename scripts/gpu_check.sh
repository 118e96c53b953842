#!/usr/bin/env bash
# Check and measure dp-bench on a machine with a GPU, in twenty minutes, without a network.
#
#   scripts/gpu_check.sh wheels          # on a connected machine: what a GPU image lacks, into build/wheels
#   scripts/gpu_check.sh [OUT]           # on the GPU: tests, speed, memory; results in OUT (default results/bench)
#   DEVICE=cpu scripts/gpu_check.sh OUT  # the same steps at the smallest sizes without a GPU, to try this script
#
# The image has Python 3.11 or newer, torch, transformers, pandas, pyarrow, scipy, peft and pytest; the pure-Python
# packages below come from build/wheels where it lacks them. Each step has a time limit, and the next one follows
# whatever became of it. STEPS="tests bench" runs some of the steps.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wheels=build/wheels
packages="hydra-core omegaconf antlr4-python3-runtime datasets evaluate dill multiprocess"

if [ "${1:-}" = wheels ]; then
  mkdir -p "$wheels"
  for package in $packages; do
    "$python" -m pip wheel --quiet --no-deps -c constraints.txt -w "$wheels" "$package" || exit 1
  done
  du -sh "$wheels"
  exit 0
fi

out=${1:-results/bench}
device=${DEVICE:-cuda}
export DP_BENCH_TEST_DEVICE=$device HF_HUB_OFFLINE=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
log=$out/gpu_check.txt
: > "$log"
failed=0

step() { # NAME SECONDS COMMAND…: run a step and write down how it ended
  case " ${STEPS:-image tests bench decoder memory pack profile} " in *" $1 "*) ;; *) return ;; esac
  local name=$1 limit=$2 began=$SECONDS code=0
  shift 2
  echo "== $name: $*" | tee -a "$log"
  timeout "$limit" bash -c '"$@"' "$name" "$@" 2>&1 | tee -a "$log" | tail -n 40
  code=${PIPESTATUS[0]}
  [ "$code" = 0 ] || failed=1
  echo "== $name: exit $code after $((SECONDS - began)) s" | tee -a "$log"
}

image() {
  nvidia-smi 2>/dev/null || echo "no nvidia-smi"
  if [ -d "$wheels" ]; then
    for package in $packages; do # only what is missing: the image's versions stay
      "$python" -m pip show --quiet "$package" 2>/dev/null ||
        "$python" -m pip install --quiet --no-index --no-deps --find-links "$wheels" "$package"
    done
  fi
  "$python" -m dp_bench doctor
}

bench() { # NAME SIZE…
  local name=$1 code=0
  shift
  for size in "$@"; do
    "$python" scripts/bench "$name" --device "$device" --size "$size" --precision bf16 --threads 1 --rounds "$rounds" \
      --texts "$texts" --out "$out"
    [ $? -le 1 ] || code=1 # 1: a target was missed, which is a result
  done
  return $code
}

pack() {
  "$python" scripts/bench pack --device "$device" --rounds "$rounds" --updates "$updates" --out "$out"
  [ $? -le 1 ] # 1: the target was missed
}

if [ "$device" = cpu ]; then
  sizes=tiny decoder=tiny rounds=1 texts=16 updates=10
else
  sizes="small base large xl" decoder=smollm2 rounds=5 texts=96 updates=100
fi
micro="task=rte backbone=t5_micro data=micro trainer=micro trainer.max_steps=20 trainer.eval_every=10"

export -f image bench pack
export python wheels packages device out rounds texts updates

step image 120 image
step tests 420 "$python" -m pytest -m gpu tests/test_gpu.py
step bench 540 bench t5 $sizes
step decoder 180 bench decoder $decoder
step memory 180 "$python" scripts/bench fits $sizes --device "$device" --out "$out"
step pack 180 pack
step profile 60 "$python" -m dp_bench train $micro prompt=dynamic device="$device" trainer.profile=true \
  results_dir="$out/profiled" rerun=true

[ "$failed" = 0 ] && echo "all steps ended well: $log" || echo "a step failed: see $log"
exit "$failed"
