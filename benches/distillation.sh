#!/usr/bin/env bash
# What the bound of stored soft labels costs the student that learns from them: the table in the README. A wide
# network learns the bundled digit pairs; its probabilities of the training images, or its logits, are stored within
# bounds; networks of the default size learn from each file, for five seeds. Usage: benches/distillation.sh PC
set -euo pipefail
pc=$(realpath "$1")
images=$(realpath "$(dirname "$0")/../data/digit-pairs/train-images-idx3-ubyte.gz")
cd "$(mktemp -d)"

# The last test accuracy that a run prints.
accuracy() { sed -n 's/^epoch.* accuracy \([0-9.]*\)%.*/\1/p' | tail -n 1; }

teacher=$("$pc" train --hidden 512 --epochs 40 --schedule cosine --learning-rate 3e-3 --dropout 0.2 \
    --augment shift=1,rotate=5,scale=0.05,elastic=8 -o teacher.safetensors | accuracy)
printf 'Teacher: 784-512-100, test accuracy %s%%\n\n' "$teacher"
printf '| labels | bytes a row | student, mean of 5 seeds | lowest | highest |\n| --- | --- | --- | --- | --- |\n'

# Trains five students; their accuracies in rising order, and the mean.
students() {
    for seed in 42 1 2 3 4; do
        "$pc" train --epochs 40 --schedule cosine --learning-rate 3e-3 --seed "$seed" -o student.safetensors --force "$@" | accuracy
    done | sort -n | awk '{ sum += $1; a[NR] = $1 } END { printf "%.2f%% | %.2f%% | %.2f%% |\n", sum / NR, a[1], a[NR] }'
}

printf '| none | | %s\n' "$(students)"
for bound in "--exact" "--max-error 1e-4" "--max-error 0.002" "--max-error 0.02" "--max-error 0.1" \
    "--max-kl 1e-3" "--max-kl 0.01" "--max-kl 0.1" "--max-kl 1" \
    "--logits --max-error 0.1" "--logits --max-error 1" "--logits --max-error 2" "--logits --max-error 4"; do
    # shellcheck disable=SC2086
    "$pc" predict-compress "$images" --model teacher.safetensors -o labels.huff --force --quiet $bound
    bytes=$(awk "BEGIN { printf \"%.2f\", $(wc -c < labels.huff) / 8000 }")
    printf '| `%s` | %s | %s\n' "$bound" "$bytes" "$(students --teacher labels.huff --temperature 4)"
done
