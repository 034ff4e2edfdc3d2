#!/usr/bin/env bash
# Test accuracy after training with default options, for five seeds, both backends and the three data
# sets: the table in the README. Usage: tests/seeds.sh PC DATA_FOLDER
set -euo pipefail
pc=$(realpath "$1")
data=$(realpath "$2")
cd "$(mktemp -d)"
printf '| data | backend | 42 | 1 | 2 | 3 | 4 |\n| --- | --- | --- | --- | --- | --- | --- |\n'
for set in mnist fashion-mnist digit-pairs; do
    for backend in ndarray flex; do
        printf '| %s | %s |' "$set" "$backend"
        for seed in 42 1 2 3 4; do
            "$pc" train --data "$data/$set" --backend "$backend" --seed "$seed" --force |
                sed -n 's/^epoch.* accuracy \([0-9.]*%\).*/\1/p' | tail -n 1 | xargs printf ' %s |'
        done
        printf '\n'
    done
done
