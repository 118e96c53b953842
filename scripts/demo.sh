#!/bin/sh
# The main job, small: fixed against dynamic prompts, two seeds each, then the comparison table.
# DATA=DIR takes SuperGLUE files in the official release layout; without it the rows are generated.
set -eu
dp_bench="${BIN:-.venv/bin}/dp-bench"
results=results/demo
if [ -n "${DATA:-}" ]; then
    task=rte
    source="data.dir=$DATA"
    echo "Data: the RTE files of $DATA."
else
    task=boolq
    source="data=micro"
    echo "Data: BoolQ rows of the micro benchmark (generated). 'make demo DATA=DIR' takes SuperGLUE files of yours."
fi
echo "Backbone: a tiny T5 with RANDOM, untrained weights. Nothing below says which method is better:"
echo "it shows that everything runs, and what a run leaves behind."
echo
"$dp_bench" train -m "task=$task" prompt=fixed,dynamic seed=0,1 backbone=t5_tiny_random trainer=smoke \
    trainer.precision=fp32 "$source" "results_dir=$results"
echo
"$dp_bench" tables --results-dir "$results" --columns params,seconds
cat <<END

Each run left its record, its predictions and its prompt in $results/runs. Next:
  .venv/bin/dp-bench list prompts                             what can be compared
  .venv/bin/dp-bench data check --dir DIR                     are my SuperGLUE files whole?
  .venv/bin/dp-bench train task=boolq prompt=dynamic          the paper's T5-base, on the hub's SuperGLUE
END
