"""Checks that networks mean the same to `pc`, NumPy, PyTorch and Keras, in both directions: predictions on the 10,000
MNIST test images agree within 1e-5. NumPy and safetensors are needed, torch and keras are used if they are there.
Usage: check_predictions.py PC MNIST_FOLDER
"""

import gzip
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file

TOLERANCE = 1e-5


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def numpy_logits(tensors, x):
    x = np.maximum(x @ tensors["0.weight"].T + tensors["0.bias"], 0)
    return x @ tensors["2.weight"].T + tensors["2.bias"]


def torch_network(*layers):
    import torch

    torch.manual_seed(1)
    return torch.nn.Sequential(*layers).eval()


def torch_probabilities(network, x):
    import torch

    with torch.no_grad():
        return torch.softmax(network(torch.from_numpy(x)), dim=1).numpy()


def check_torch(model, pc_probabilities, predict, x, folder):
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch
    from torch.nn import Dropout, Flatten, Linear, ReLU

    network = torch_network(Linear(784, 128), ReLU(), Linear(128, 100))
    network.load_state_dict(load_torch(model))
    compare("pc's network in PyTorch", pc_probabilities, torch_probabilities(network, x))
    networks = {
        "Linear, ReLU, Linear": [Linear(784, 32), ReLU(), Linear(32, 10)],
        "three layers": [Linear(784, 30), ReLU(), Linear(30, 20), ReLU(), Linear(20, 7)],
        "Flatten and Dropout": [Flatten(), Linear(784, 32), ReLU(), Dropout(), Linear(32, 10)],
    }
    for name, layers in networks.items():
        network = torch_network(*layers)
        save_torch(network.state_dict(), f"{folder}/torch.safetensors")
        ours = predict("torch.safetensors")
        compare(f"PyTorch's network in pc ({name})", ours, torch_probabilities(network, x))


def check_keras(model, pc_probabilities, predict, x, folder):
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    def network(n_hidden, n_classes):
        dense = keras.layers.Dense
        layers = [dense(n_hidden, "relu"), dense(n_classes, "softmax")]
        return keras.Sequential([keras.Input((784,)), *layers])

    tensors = load_file(model)
    theirs = network(128, 100)
    theirs.set_weights([tensors["0.weight"].T, tensors["0.bias"], tensors["2.weight"].T, tensors["2.bias"]])
    compare("pc's network in Keras", pc_probabilities, theirs.predict(x, verbose=0))
    theirs = network(32, 10)
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    tensors = dict(zip(names, [np.ascontiguousarray(w.T) for w in theirs.get_weights()]))
    save_file(tensors, f"{folder}/keras.safetensors")
    compare("Keras' network in pc", predict("keras.safetensors"), theirs.predict(x, verbose=0))


def main():
    pc = pathlib.Path(sys.argv[1]).resolve()
    mnist = pathlib.Path(sys.argv[2]).resolve()
    with gzip.open(mnist / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    x = images.reshape(len(images), -1).astype(np.float32) / 255
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        run = lambda *words: subprocess.run([pc, *words, "--quiet"], cwd=folder, check=True)

        def predict(model, *options):
            run("predict", "images.npy", "-o", "out.npy", "--force", "--model", model, *options)
            return np.load(f"{folder}/out.npy")

        run("train", "--data", mnist, "--epochs", "2")
        model = f"{folder}/model.safetensors"
        ours = predict("model.safetensors")
        assert ours.shape == (10_000, 100) and ours.dtype == np.float32
        compare("pc's network in NumPy", ours, softmax(numpy_logits(load_file(model), x)))
        # Standardizing is in the weights; a temperature is in the metadata, and for probabilities alone.
        flags = ["--standardize", "--calibrate", "--validation", "0.1"]
        run("train", "--data", mnist, "--epochs", "1", *flags, "-o", "calibrated")
        compare(
            "pc's standardized network in NumPy, logits",
            predict("calibrated", "--logits"),
            numpy_logits(load_file(f"{folder}/calibrated"), x),
            tolerance=1e-4,
        )
        for library, check in [("torch", check_torch), ("keras", check_keras)]:
            if importlib.util.find_spec(library) is None:
                print(f"{library} is not installed: skipped")
            else:
                check(model, ours, predict, x, folder)


def compare(name, ours, theirs, tolerance=TOLERANCE):
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(np.float64) - theirs).max()
    print(f"{name}: largest difference of {len(ours)} rows {difference:.2e}")
    assert difference <= tolerance


main()
