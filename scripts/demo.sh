#!/bin/sh
# The main job, small: fixed against dynamic prompts with their controls, then the comparison table.
# Without DATA on the embedded benchmark: generated rows, a tiny T5 that was really pretrained on their world.
# DATA=DIR takes the RTE files of a SuperGLUE folder in the official release layout, with a random backbone.
set -eu
dp_bench="${BIN:-.venv/bin}/dp-bench"
results=results/demo
if [ -n "${DATA:-}" ]; then
    echo "Data: the RTE files of $DATA. Backbone: a tiny T5 with RANDOM weights, which shows that everything"
    echo "runs and nothing about the methods; name a checkpoint with backbone= for that."
    set -- task=rte backbone=t5_tiny_random trainer=smoke "data.dir=$DATA" "results_dir=$results"
else
    echo "Data and backbone: the embedded micro benchmark (generated). Its scores say nothing about SuperGLUE."
    set -- task=boolq backbone=t5_micro data=micro trainer=micro trainer.max_steps=200 "results_dir=$results"
fi
echo "23 runs: about two minutes on two idle cores."
# So small a model uses one core: two runs at once.
"$dp_bench" sweep prompt=majority,zero_shot,linear_probe,fixed,postfix,split,random_position,dynamic,fine_tuning \
    seed=0,1,2 "$@" --jobs 2
echo
"$dp_bench" tables --results-dir "$results" --columns params,seconds
cat <<END

Each run left its record, its predictions and its prompt in $results/runs. Next:
  .venv/bin/dp-bench list prompts                             what can be compared
  .venv/bin/dp-bench sweep experiment=micro/position          dynamic positions with all their controls, 148 runs
  .venv/bin/dp-bench data check DIR                           are my SuperGLUE files whole?
  .venv/bin/dp-bench train task=boolq prompt=dynamic          the paper's T5-base on SuperGLUE, both from the hub
END
