"""How time and memory grow with rows and with classes: whole processes, medians of three.

    cargo build --release
    venv/bin/python benches/scaling.py target/release/pc ../shared/data/mnist

needs NumPy. Rows come through a pipe and, decoded, go into one, so that no storage counts and any number of
rows fits. The matrices by classes are softmaxes of a random low-rank model, the same each time.
"""

import pathlib
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

PC, MNIST = sys.argv[1], pathlib.Path(sys.argv[2])
mnist = runpy.run_path(str(pathlib.Path(__file__).parent / "frameworks.py"))["mnist"]
N_TURNS = 3


def npy_header(rows, n_rows):
    text = f"{{'descr': '{rows.dtype.str}', 'fortran_order': False, 'shape': ({n_rows}, {rows.shape[1]}), }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def run(arguments, rows=None, n_rows=0):
    """Seconds and peak memory in MB of a process that is fed `rows`, again and again, up to `n_rows`."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [PC, *map(str, arguments)],
        stdin=subprocess.PIPE if rows is not None else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def feed():
        with process.stdin as pipe:
            pipe.write(npy_header(rows, n_rows))
            for first in range(0, n_rows, len(rows)):
                pipe.write(rows[: n_rows - first])

    if rows is not None:
        threading.Thread(target=feed).start()
    memory = 0.0
    while process.poll() is None:
        memory = peak_memory(process.pid) or memory
        time.sleep(0.002)
    if process.returncode != 0:
        sys.exit(f"pc {arguments} failed")
    return time.perf_counter() - start, memory


def peak_memory(pid):
    """In MB. Not what wait4 says, which counts this script's own memory before the exec."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return found and int(found[1]) / 1000


def median_of(arguments, *rows):
    turns = [run(arguments, *rows) for _ in range(N_TURNS)]
    return statistics.median(seconds for seconds, _ in turns), max(memory for _, memory in turns)


def by_rows(folder):
    model, huff = folder / "model.safetensors", folder / "out.huff"
    subprocess.run([PC, "train", "--quiet", "--data", MNIST, "--epochs", "2", "-o", model], check=True)
    images, _ = mnist(MNIST, "t10k")
    print("| images | predict-compress rows/s | peak MB | decode rows/s | peak MB | bytes a row |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n_rows in 10_000, 100_000, 1_000_000, 10_000_000:
        forth = median_of(["predict-compress", "-", "--model", model, "-o", huff, "--force"], images, n_rows)
        back = median_of(["decode", huff, "-o", "-"])
        figures = [f"{n_rows / seconds:,.0f} | {memory:.0f}" for seconds, memory in (forth, back)]
        print(f"| {n_rows:,} | {figures[0]} | {figures[1]} | {huff.stat().st_size / n_rows:.3f} |")


def by_classes(folder):
    n_values, rank, generator = 10_000_000, 16, np.random.default_rng(1)
    print("\n| classes | rows | compress MB/s | peak MB | decode MB/s | peak MB | bytes a row |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for n_classes in 10, 100, 1_000, 10_000:
        n_rows = n_values // n_classes
        logits = generator.normal(size=(n_rows, rank)) @ generator.normal(size=(rank, n_classes))
        logits += generator.normal(size=logits.shape)
        rows = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float32)
        rows /= rows.sum(axis=1, keepdims=True)
        huff = folder / f"{n_classes}.huff"
        forth = median_of(["compress", "-", "-o", huff, "--force"], rows, n_rows)
        back = median_of(["decode", huff, "-o", "-"])
        figures = [f"{rows.nbytes / 1e6 / seconds:,.0f} | {memory:.0f}" for seconds, memory in (forth, back)]
        size = huff.stat().st_size / n_rows
        print(f"| {n_classes:,} | {n_rows:,} | {figures[0]} | {figures[1]} | {size:,.2f} |")


with tempfile.TemporaryDirectory() as folder:
    by_rows(pathlib.Path(folder))
    by_classes(pathlib.Path(folder))
