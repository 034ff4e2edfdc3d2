"""Golden files decode to the bits that are listed, with a `pc` built as users build it. Usage: check_golden.py PC"""

import pathlib
import subprocess
import sys
import tempfile
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def main():
    pc = pathlib.Path(sys.argv[1]).resolve()
    lines = (GOLDEN / "index.txt").read_text().splitlines()
    n_files = 0
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "rows.npy"
        for line in lines:
            if line.startswith("#"):
                continue
            name, n_rows, n_classes, checksum, *references = line.split()
            command = [pc, "decode", GOLDEN / name, "-o", output, "--force", "--quiet"]
            for reference in references:
                command += ["--reference", GOLDEN / reference]
            subprocess.run(command, check=True)
            rows = np.load(output)
            assert rows.shape == (int(n_rows), int(n_classes)) and rows.dtype == np.float32, name
            assert f"{zlib.crc32(rows.tobytes()):08x}" == checksum, name
            n_files += 1
    assert n_files >= 94
    print(f"{n_files} golden files decode to the bits listed")


main()
