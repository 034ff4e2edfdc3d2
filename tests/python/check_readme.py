"""Does what the README says: runs its commands and its Python, in order, in an empty folder, and compares what
they print with what stands there, figures aside. Usage: check_readme.py PC MNIST_FOLDER

Needs numpy, pandas and pyarrow.
"""

import gzip
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"


def idx(path, n_header_bytes):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        return np.frombuffer(file.read(), np.uint8, offset=n_header_bytes)


def blocks(text):
    """The indented blocks of a Markdown text, with the line that each begins at."""
    lines = text.splitlines()
    block, start = [], 0
    for number, line in enumerate([*lines, "end"], 1):
        if line.startswith("    ") or (not line and block):
            if not block:
                start = number
            block.append(line[4:])
        elif block:
            yield start, "\n".join(block).strip("\n")
            block = []


def masked(text):
    """The lines of a text with figures, and the spaces between words, alike."""
    text = re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "#", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def is_like(printed, expected):
    """Whether the lines are as expected; a line of three dots stands for any number of lines."""
    if not expected:
        return not printed
    if expected[0] == "...":
        return any(is_like(printed[n:], expected[1:]) for n in range(len(printed) + 1))
    return bool(printed) and printed[0] == expected[0] and is_like(printed[1:], expected[1:])


def run(commands, environment):
    """A block of `$ ` commands, each followed by what it prints. The number of commands."""
    parts = re.split(r"^\$ ", commands, flags=re.MULTILINE)[1:]
    for part in parts:
        command, _, expected = part.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = command[:-1] + more
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(["bash", "-c", command], env=environment, text=True, **streams)
        assert done.returncode == 0, (command, done.stdout)
        message = f"$ {command}\n{done.stdout}\nbut the README has\n{expected}"
        assert is_like(masked(done.stdout), masked(expected)), message
    return len(parts)


def main():
    pc, mnist = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        (pathlib.Path(folder) / "bin").mkdir()
        os.symlink(pc, "bin/pc")
        os.symlink(mnist, "mnist")
        environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        os.environ["PATH"] = environment["PATH"]
        [images], [labels] = (list(mnist.glob(f"t10k-{what}*")) for what in ("images", "labels"))
        np.save("input.npy", idx(images, 16).reshape(-1, 28, 28))
        np.save("labels.npy", idx(labels, 8))

        n_commands = n_programs = 0
        for line, block in blocks(README.read_text()):
            if "\n$ pc" in "\n" + block:
                try:
                    n_commands += run(block, environment)
                except AssertionError as error:
                    sys.exit(f"README.md, line {line}: {error}")
            elif block.startswith("import "):
                exec(compile("\n" * (line - 1) + block, README.name, "exec"), {})
                n_programs += 1
            # What the tasks begin with.
            if pathlib.Path("probs.npy").exists() and not pathlib.Path("oof.parquet").exists():
                rows = np.load("probs.npy")
                pd.DataFrame(rows).rename(columns=lambda digit: f"class {digit}").to_parquet("oof.parquet")
                np.save("monday.npy", rows[:6000])
                np.save("tuesday.npy", rows[6000:])
        assert n_commands >= 15 and n_programs >= 1, (n_commands, n_programs)
        print(f"README.md: {n_commands} commands and {n_programs} Python programs do what it says")


main()
