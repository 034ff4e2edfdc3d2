"""Sizes and speeds beside SZ3, zfp and pcodec, which are not Rust crates.

    python -m venv venv && venv/bin/pip install numpy pysz zfpy pcodec
    venv/bin/python benches/peers.py target/release/pc ../shared/data/predictions

Every lossy peer gets the matrix as it is and transposed, and the smaller result counts; its own largest
error is printed, since not all keep their bounds. Speeds are of one thread, in MB of float32 a second,
for our side of whole processes that read and write files (in /dev/shm, where there is one).
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import zfpy
from pcodec import ChunkConfig, standalone
from pysz import sz, szConfig, szErrorBoundMode

PC, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None


def sz3(values, bound):
    config = szConfig()
    config.errorBoundMode = szErrorBoundMode.ABS
    config.absErrorBound = bound
    start = time.perf_counter()
    data, _ = sz.compress(values, config)
    middle = time.perf_counter()
    decoded, _ = sz.decompress(data, np.float32, values.shape)
    return data, decoded, middle - start, time.perf_counter() - middle


def zfp(values, bound):
    start = time.perf_counter()
    data = zfpy.compress_numpy(values, tolerance=bound)
    middle = time.perf_counter()
    decoded = zfpy.decompress_numpy(data)
    return data, decoded, middle - start, time.perf_counter() - middle


def ours(values, options):
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        raw, huff, back = (os.path.join(folder, name) for name in ("a.npy", "a.huff", "b.npy"))
        np.save(raw, values)
        start = time.perf_counter()
        subprocess.run([PC, "-q", "compress", raw, "-o", huff, "--threads", "1", *options], check=True)
        middle = time.perf_counter()
        subprocess.run([PC, "-q", "decode", huff, "-o", back, "--threads", "1"], check=True)
        end = time.perf_counter()
        decoded = np.load(back)
        return os.path.getsize(huff), decoded, middle - start, end - middle


def largest_error(values, decoded):
    return np.abs(values.astype(np.float64) - decoded).max()


def mb_a_second(values, seconds):
    return values.nbytes / seconds / 1e6


print("| matrix | bound | pc B/row | SZ3 | zfp | pc / best | errors: pc, SZ3, zfp over the bound |")
print("| --- | --- | --- | --- | --- | --- | --- |")
CASES = [
    ("fashion-mnist-logits", 0.01),
    ("fashion-mnist-logits", 0.05),
    ("digit-pairs-logits", 0.01),
    ("digit-pairs-logits", 0.05),
    ("mnist-probs", 1 / 510),
    ("fashion-mnist-probs", 1e-4),
    ("omniglot100-probs", 1 / 510),
]
for name, bound in CASES:
    values = np.load(FOLDER / f"{name}.npy")
    kind = "logits" if "logits" in name else "probabilities"
    size, decoded, *_ = ours(values, ["--kind", kind, "--max-error", repr(bound)])
    sizes, errors = [], [largest_error(values, decoded) / bound]
    for peer in (sz3, zfp):
        results = []
        for array in (values, np.ascontiguousarray(values.T)):
            data, back, *_ = peer(array, bound)
            results.append((len(data), largest_error(array, back) / bound))
        best = min(results)
        sizes.append(best[0])
        errors.append(best[1])
    per_row = [n / len(values) for n in (size, *sizes)]
    print(
        f"| {name} | {bound:.5f} | {per_row[0]:.2f} | {per_row[1]:.2f} | {per_row[2]:.2f} "
        f"| {size / min(sizes):.3f} | {', '.join(f'{e:.3f}' for e in errors)} |"
    )

print("\n| matrix, exact | pc B/row | pcodec level 8, by row or column | ratio |")
print("| --- | --- | --- | --- |")
for name in sorted(path.stem for path in FOLDER.glob("*.npy")):
    values = np.load(FOLDER / f"{name}.npy")
    size, decoded, *_ = ours(values, ["--exact"])
    assert np.array_equal(values.view(np.uint32), decoded.view(np.uint32))
    config = ChunkConfig(compression_level=8)
    arrays = (values.ravel(), np.ascontiguousarray(values.T).ravel())
    pco = min(len(standalone.simple_compress(array, config)) for array in arrays)
    print(f"| {name} | {size / len(values):.2f} | {pco / len(values):.2f} | {size / pco:.3f} |")

print("\n| speed, MB/s: compress / decompress | pc | SZ3 | |")
print("| --- | --- | --- | --- |")
for name, bound, n_tiles in [
    ("mnist-probs", 1 / 510, 20),
    ("fashion-mnist-logits", 0.05, 5),
    ("digit-pairs-probs", 1 / 510, 50),
]:
    values = np.load(FOLDER / f"{name}.npy")
    # Each tile a millionth smaller: rows that come again are coded once, which is not what this is about.
    values = np.concatenate([values * np.float32(1 - tile * 1e-6) for tile in range(n_tiles)])
    kind = "logits" if "logits" in name else "probabilities"
    turns = [(ours(values, ["--kind", kind, "--max-error", repr(bound)])[2:], sz3(values, bound)[2:]) for _ in range(3)]
    pc, peer = ([mb_a_second(values, min(t[who][way] for t in turns)) for way in (0, 1)] for who in (0, 1))
    print(
        f"| {name} x{n_tiles} | {pc[0]:.0f} / {pc[1]:.0f} | {peer[0]:.0f} / {peer[1]:.0f} "
        f"| {pc[0] / peer[0]:.1f}x / {pc[1] / peer[1]:.1f}x |"
    )
