"""Speed of training, prediction and the whole road beside PyTorch and Keras, in one run.

    cargo build --release
    python3 benches/frameworks.py ../shared/data/mnist

The peers are installed from PyPI into a virtual environment outside the checkout (--venv). All ways are
timed in turn, so that they meet the same machine; medians of --turns count, and ratios are taken of these.
Files lie in memory-backed storage where there is some (/dev/shm).
"""

import argparse
import gzip
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ["numpy", "torch", "tensorflow-cpu", "zstandard"]
BATCH = 128
N_ROAD = 1_000_000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="folder with MNIST's IDX files")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path.home() / ".cache/pc-peers")
    parser.add_argument("--only", default="train,predict,road,decode,start", help="parts to run, by commas")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def idx(path):
    import numpy as np

    opened = gzip.open if path.suffix == ".gz" else open
    data = opened(path, "rb").read()
    n_dimensions = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(n_dimensions)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)


def mnist(folder, part):
    [images] = list(folder.glob(f"{part}-images*"))[:1]
    [labels] = list(folder.glob(f"{part}-labels*"))[:1]
    return idx(images).reshape(-1, 784), idx(labels)


# The peers. Each worker is a process that answers every line on its standard input with a figure.


def torch_worker(folder):
    import numpy as np
    import torch

    images, labels = mnist(folder, "train")
    pixels = torch.from_numpy(images.astype(np.float32) / 255)
    labels = torch.from_numpy(labels.astype(np.int64))
    model = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 100))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    loss_of = torch.nn.CrossEntropyLoss()
    n = len(pixels)

    def train():
        order = torch.randperm(n)
        for start in range(0, n, BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(pixels[rows]), labels[rows]).backward()
            optimizer.step()

    @torch.inference_mode()
    def predict(batch):
        for start in range(0, n, batch):
            torch.softmax(model(pixels[start : start + batch]), 1)

    @torch.inference_mode()
    def predict_file(path, take=None):
        rows = torch.from_numpy(np.load(path))
        for start in range(0, len(rows), 16384):
            probabilities = torch.softmax(model(rows[start : start + 16384].float().mul_(1 / 255)), 1)
            if take:
                take(probabilities)

    def road(path):
        import zstandard

        with open(path + ".zst", "wb") as file, zstandard.ZstdCompressor(3).stream_writer(file) as writer:
            predict_file(path, lambda p: writer.write(torch.round(p, decimals=3).numpy().tobytes()))

    return {
        "train": (n, train),
        # The batch that suits PyTorch best counts.
        **{f"predict {batch}": (n, lambda batch=batch: predict(batch)) for batch in (256, 1024, 4096, 16384)},
        "predict file": (N_ROAD, predict_file),
        "road": (N_ROAD, road),
    }


def keras_worker(folder):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import numpy as np

    images, labels = mnist(folder, "train")
    pixels = images.astype(np.float32) / 255
    model = keras.Sequential(
        [keras.layers.Input((784,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(100, "softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return {
        "train": (len(pixels), lambda: model.fit(pixels, labels, BATCH, epochs=1, verbose=0)),
        "predict": (len(pixels), lambda: model.predict(pixels, batch_size=4096, verbose=0)),
    }


def work(name, folder):
    jobs = {"torch": torch_worker, "keras": keras_worker}[name](folder)
    versions = {module: sys.modules[module].__version__ for module in ("torch", "keras") if module in sys.modules}
    print(json.dumps({"jobs": list(jobs), "versions": versions}), flush=True)
    for line in sys.stdin:
        job, *rest = json.loads(line)
        n, run = jobs[job]
        start = time.perf_counter()
        run(*rest)
        print(n / (time.perf_counter() - start), flush=True)


class Worker:
    def __init__(self, python, name, folder):
        command = [python, __file__, str(folder), "--worker", name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        start = json.loads(self.process.stdout.readline())
        self.jobs, self.versions = start["jobs"], start["versions"]

    def time(self, *job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


# Our side: the binary, as a user runs it.


def pc(*arguments):
    binary = ROOT / "target/release/pc"
    start = time.perf_counter()
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"pc {' '.join(map(str, arguments))}: {done.stderr}")
    return seconds, done.stdout


def pc_train(folder, model, backend):
    """Samples a second of one epoch, batches gathered and converted; as `pc train` prints it."""
    options = ["--epochs", 1, "--batch-size", BATCH, "--backend", backend, "--force"]
    _, text = pc("train", "--data", folder, "-o", model, *options)
    return float(re.search(r"([\d,]+) samples/s", text)[1].replace(",", ""))


def pc_predict():
    """Images a second of `Predictor::predict` on f32 and on u8 rows in memory."""
    command = ["cargo", "bench", "--quiet", "--bench", "model", "--", "predict, pc"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {kind: float(rate) for kind, rate in re.findall(r"\| predict, pc, (\w+) \| (\d+) \|", text)}


class Table:
    """Figures by name, a list of turns each."""

    def __init__(self):
        self.figures = {}

    def add(self, name, figure):
        self.figures.setdefault(name, []).append(figure)

    def median(self, name):
        return statistics.median(self.figures[name])

    def print(self, title, unit, references):
        references = [name for name in references if name in self.figures]
        print(f"\n| {title} | {unit}, median of {len(next(iter(self.figures.values())))} |", end="")
        print("".join(f" x {name} |" for name in references))
        print("| --- | --- |" + " --- |" * len(references))
        for name in self.figures:
            ratios = "".join(f" {self.median(name) / self.median(other):.2f} |" for other in references)
            print(f"| {name} | {self.median(name):,.0f} |{ratios}")


def main():
    options = arguments()
    if options.worker:
        return work(options.worker, options.data)
    parts = options.only.split(",")
    python = options.venv / "bin/python"
    if not python.exists():
        venv.create(options.venv, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
    torch, keras = (Worker(python, name, options.data) for name in ("torch", "keras"))
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"{os.cpu_count()} cores of {cpu[1] if cpu else platform.processor()};", end=" ")
    print(", ".join(f"{k} {v}" for k, v in {**torch.versions, **keras.versions}.items()) + ";", pc("--version")[1].strip())

    storage = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=storage) as folder:
        folder = pathlib.Path(folder)
        model = folder / "model.safetensors"
        pc_train(options.data, model, "ndarray")
        if "train" in parts:
            table = Table()
            for _ in range(options.turns):
                table.add("Keras", keras.time("train"))
                table.add("PyTorch, fused Adam", torch.time("train"))
                for backend in ("ndarray", "flex"):
                    table.add(f"pc --backend {backend}", pc_train(options.data, folder / "other", backend))
            table.print(f"training, batch {BATCH}", "samples/s", ["Keras", "PyTorch, fused Adam"])
        if "predict" in parts:
            table = Table()
            for _ in range(options.turns):
                table.add("Keras", keras.time("predict"))
                table.add("PyTorch", max(torch.time(job) for job in torch.jobs if re.match(r"predict \d", job)))
                for kind, rate in pc_predict().items():
                    table.add(f"pc, {kind} rows", rate)
            table.print("prediction in memory", "rows/s", ["Keras", "PyTorch"])
        if {"road", "decode"} & set(parts):
            road(options, parts, folder, model, python, torch)
        if "start" in parts:
            pc("predict-compress", write_images(python, options.data, folder, 100), "--model", model, "-o", folder / "small.huff")
            table = Table()
            for _ in range(4 * options.turns):
                table.add("pc --version", 1e6 * pc("--version")[0])
                table.add("pc inspect, 100 rows", 1e6 * pc("inspect", folder / "small.huff")[0])
            table.print("a whole process", "microseconds", [])
            size = os.path.getsize(ROOT / "target/release/pc")
            print(f"\nThe binary has {size / 1e6:.1f} MB.")


def write_images(python, data, folder, n):
    """`n` test images, as an .npy file of bytes."""
    path = folder / f"{n}.npy"
    script = f"""
import pathlib, runpy, numpy as np
images, _ = runpy.run_path({__file__!r})["mnist"](pathlib.Path({str(data)!r}), "t10k")
np.save({str(path)!r}, np.resize(images, ({n}, 784)))
"""
    subprocess.run([python, "-c", script], check=True)
    return path


def road(options, parts, folder, model, python, torch):
    images = write_images(python, options.data, folder, N_ROAD)
    huff, decoded = folder / "out.huff", folder / "out.npy"
    compress = ["predict-compress", images, "--model", model, "-o", huff, "--force"]
    table, decode = Table(), Table()
    for _ in range(options.turns):
        if "road" in parts:
            table.add("PyTorch: predict, round to 3 decimals, zstd -3", torch.time("road", str(images)))
            table.add("PyTorch: predict alone, from the file", torch.time("predict file", str(images)))
            in_memory = (torch.time(job) for job in torch.jobs if re.match(r"predict \d", job))
            table.add("PyTorch: predict alone, in memory", max(in_memory))
            table.add("pc predict-compress", N_ROAD / pc(*compress)[0])
    if "road" in parts:
        table.print(f"{N_ROAD:,} images, file to file", "rows/s", list(table.figures)[:3])
        zst = os.path.getsize(f"{images}.zst")
        print(f"\nWritten: zstd {zst:,} bytes, pc {os.path.getsize(huff):,} bytes.")
    if "decode" in parts:
        images.unlink()
        for _ in range(options.turns):
            decode.add("pc decode", N_ROAD * 400 / 1e6 / pc("decode", huff, "-o", decoded)[0])
            source = decoded.read_bytes()
            decoded.unlink()
            start = time.perf_counter()
            (folder / "copy").write_bytes(source)
            decode.add("writing these bytes", len(source) / 1e6 / (time.perf_counter() - start))
            (folder / "copy").unlink()
        decode.print(".huff to .npy", "MB of float32/s", [])


if __name__ == "__main__":
    main()
