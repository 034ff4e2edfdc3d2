"""Writes the files in tests/torch: networks saved by PyTorch, and what PyTorch itself predicts with them on the
images of `pixels` in tests/it/common.rs. Usage: make_torch_files.py FOLDER
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

N_IMAGES = 20


def images():
    image, pixel = np.divmod(np.arange(N_IMAGES * 784), 784)
    grey = (pixel * 7 + image * 13) % 256
    return np.where(pixel * (image + 3) % 11 < 3, grey, 0).reshape(N_IMAGES, 784)


def main():
    folder = pathlib.Path(sys.argv[1])
    torch.manual_seed(1)
    networks = {
        "sequential": nn.Sequential(nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10)),
        # Numbered otherwise, and with a layer more.
        "flatten": nn.Sequential(
            nn.Flatten(), nn.Linear(784, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
    }
    x = torch.from_numpy(images().astype(np.float32) / 255)
    for name, network in networks.items():
        network.eval()
        save_file(network.state_dict(), folder / f"{name}.safetensors")
        with torch.no_grad():
            logits = network(x)
            np.save(folder / f"{name}-logits.npy", logits.numpy())
            np.save(folder / f"{name}-probs.npy", torch.softmax(logits, dim=1).numpy())


main()
