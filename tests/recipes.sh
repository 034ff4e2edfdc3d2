#!/usr/bin/env bash
# Test accuracy of the README's recipes for five seeds, their mean, and the wall time of a run: a table in
# the README. Usage: tests/recipes.sh PC DATA_FOLDER [RECIPE...]
set -euo pipefail
pc=$(realpath "$1")
data=$(realpath "$2")
shift 2
cd "$(mktemp -d)"

digits="--schedule cosine --learning-rate 4e-3 --average 0.999 --augment shift=1,rotate=10,scale=0.1,elastic=18"
declare -A recipes=(
    [mnist]="--data $data/mnist --epochs 100 $digits"
    [lenet]="--data $data/mnist --epochs 15 $digits --hidden 300,100"
    [fashion]="--data $data/fashion-mnist --epochs 30 --schedule cosine --learning-rate 4e-3 --average 0.999
        --batch-size 256 --dropout 0.05 --weight-decay 0.05 --label-smoothing 0.05 --standardize"
)
[ $# -gt 0 ] || set -- mnist lenet fashion
printf '| recipe | 42 | 1 | 2 | 3 | 4 | mean | seconds a run |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n'
for recipe in "$@"; do
    printf '| %s |' "$recipe"
    accuracies=""
    start=$SECONDS
    for seed in 42 1 2 3 4; do
        # shellcheck disable=SC2086
        "$pc" train ${recipes[$recipe]} --seed "$seed" --force > out
        accuracy=$(sed -n 's/^epoch.* accuracy \([0-9.]*\)%.*/\1/p' out | tail -n 1)
        accuracies+=" $accuracy"
        printf ' %s%% |' "$accuracy"
    done
    mean=$(awk '{ print ($1 + $2 + $3 + $4 + $5) / 5 }' <<< "$accuracies")
    printf ' %s%% | %s |\n' "$mean" "$(((SECONDS - start) / 5))"
done
