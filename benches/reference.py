"""What a reference saves: sizes of predictions told alone and against those of an earlier model.

    cargo build --release
    python3 benches/reference.py target/release/pc ../shared/data

trains three models for each data set: one with seed 1, its sibling with seed 2, and the first one again with a
tenth more epochs; and compresses the test set's predictions of the last two against those of the first. `useless`
is what a reference that has nothing to do with the rows costs: the same one with its rows in falling order.
"""

import pathlib
import subprocess
import sys
import tempfile

PC, DATA = sys.argv[1], pathlib.Path(sys.argv[2])
EPOCHS = {"digit-pairs": 40, "mnist": 10, "fashion-mnist": 10}
BOUNDS = {
    "probs": ["--max-error 0.00196", "--max-error 1e-4", "--max-kl 1e-3", "--exact"],
    "logits": ["--max-error 0.01", "--max-error 0.001", "--exact"],
}


def pc(arguments):
    subprocess.run([PC, "--quiet", *map(str, arguments)], check=True)


def reverse(path, reversed_path):
    """The same rows, the last one first."""
    data = path.read_bytes()
    n_header = 10 + int.from_bytes(data[8:10], "little")
    shape = data[:n_header].split(b"(")[1].split(b")")[0]
    n_rows = int(shape.split(b",")[0])
    n_bytes = (len(data) - n_header) // n_rows
    rows = [data[n_header + i * n_bytes : n_header + (i + 1) * n_bytes] for i in range(n_rows)]
    reversed_path.write_bytes(data[:n_header] + b"".join(reversed(rows)))


def size(rows, bound, kind, reference=None):
    output = rows.with_suffix(".out.huff")
    options = [*bound.split(), "--kind", "logits" if kind == "logits" else "probabilities"]
    if reference:
        options += ["--reference", reference]
    pc(["compress", rows, "-o", output, "--force", *options])
    n_rows = int(rows.read_bytes()[:128].split(b"(")[1].split(b",")[0])
    return output.stat().st_size / n_rows


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    print("bytes a row, alone -> against the reference")
    for data, epochs in EPOCHS.items():
        models = {"old": (1, epochs), "sibling": (2, epochs), "retrained": (1, epochs * 11 // 10)}
        for name, (seed, n_epochs) in models.items():
            model = folder / f"{data}-{name}.safetensors"
            pc(["train", "--data", DATA / data, "-o", model, "--seed", seed, "--epochs", n_epochs])
            images = DATA / data / "t10k-images-idx3-ubyte.gz"
            for kind in BOUNDS:
                output = folder / f"{data}-{name}-{kind}.npy"
                logits = ["--logits"] if kind == "logits" else []
                pc(["predict", images, "-o", output, "--model", model, *logits])
        for kind, bounds in BOUNDS.items():
            for bound in bounds:
                old = folder / f"{data}-old-{kind}.npy"
                backwards = folder / f"{data}-backwards-{kind}.npy"
                reverse(old, backwards)
                promise = [*bound.split(), "--kind", "logits" if kind == "logits" else "probabilities"]
                for rows in [old, backwards]:
                    pc(["compress", rows, "-o", rows.with_suffix(".huff"), "--force", *promise])
                for name in ["sibling", "retrained"]:
                    rows = folder / f"{data}-{name}-{kind}.npy"
                    alone = size(rows, bound, kind)
                    beside = size(rows, bound, kind, old.with_suffix(".huff"))
                    useless = size(rows, bound, kind, backwards.with_suffix(".huff"))
                    share, more = (100 * x / alone - 100 for x in (beside, useless))
                    print(
                        f"{data:14}{kind:8}{name:11}{bound:20}{alone:9.3f} ->{beside:9.3f} {share:+6.1f}%"
                        f"   useless {more:+5.2f}%",
                        flush=True,
                    )
