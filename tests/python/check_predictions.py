"""Computes the predictions of a `pc` checkpoint with NumPy (and PyTorch, if it is installed), from
nothing but the safetensors file, and compares them with those of `pc predict` on the 10,000 MNIST test
images. Usage: check_predictions.py PC MNIST_FOLDER
"""

import gzip
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

TOLERANCE = 1e-5


def with_numpy(model, images):
    tensors = load_file(model)
    x = images.reshape(len(images), -1).astype(np.float32) / 255
    x = np.maximum(x @ tensors["0.weight"].T + tensors["0.bias"], 0)
    x = x @ tensors["2.weight"].T + tensors["2.bias"]
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def with_torch(model, images):
    import torch
    from safetensors.torch import load_file as load_torch

    network = torch.nn.Sequential(
        torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 100)
    )
    network.load_state_dict(load_torch(model))
    with torch.no_grad():
        x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
        return torch.softmax(network(x), dim=1).numpy()


def main():
    pc = pathlib.Path(sys.argv[1]).resolve()
    mnist = pathlib.Path(sys.argv[2]).resolve()
    with gzip.open(mnist / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model.safetensors"
        np.save(f"{folder}/images.npy", images)
        run = lambda *words: subprocess.run([pc, *words, "--quiet"], cwd=folder, check=True)
        run("train", "--data", mnist, "--epochs", "2")
        run("predict", "images.npy", "-o", "probs.npy")
        ours = np.load(f"{folder}/probs.npy")
        assert ours.shape == (10_000, 100) and ours.dtype == np.float32
        compare("NumPy", ours, with_numpy(model, images))
        try:
            theirs = with_torch(model, images)
        except ImportError:
            print("PyTorch is not installed: compared with NumPy alone")
        else:
            compare("PyTorch", ours, theirs)


def compare(name, ours, theirs):
    difference = np.abs(ours.astype(np.float64) - theirs).max()
    print(f"{name}: largest difference of {len(ours)} rows {difference:.2e}")
    assert difference <= TOLERANCE


main()
