"""Writes predictions with NumPy, pandas and pyarrow in every format that `pc compress` reads, compresses
them, decodes them to every format that `pc decode` writes, reads these with the same libraries, and compares
the values with the originals. Usage: check_formats.py PC [float32.npy ...]

Needs numpy and pyarrow; pandas is used if it is installed. Each .npy file named is checked as well, by its
first 2,000 rows.
"""

import gzip
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq

try:
    import pandas as pd
except ImportError:
    pd = None

MAX_ERROR = 1e-4


def predictions(n_rows, n_classes, dtype):
    random = np.random.default_rng(42)
    logits = random.normal(size=(n_rows, n_classes)) * 4
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exps / exps.sum(axis=1, keepdims=True)).astype(dtype)


def table(rows):
    names = [f"name {i}" for i in range(rows.shape[1])]
    return pa.table([pa.array(np.ascontiguousarray(column)) for column in rows.T], names=names)


def arrow_file(path, rows, compression=None):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, table(rows).schema, options=options) as writer:
        writer.write_table(table(rows), max_chunksize=300)


def arrow_stream(path, rows):
    with pa.ipc.new_stream(path, table(rows).schema) as writer:
        writer.write_table(table(rows), max_chunksize=300)


def lists(path, rows, list_type):
    flat = pa.array(rows.ravel())
    if list_type == "fixed":
        column = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    else:
        offsets = np.arange(0, rows.size + 1, rows.shape[1])
        kind = pa.LargeListArray if list_type == "large" else pa.ListArray
        column = kind.from_arrays(pa.array(offsets, pa.int64() if list_type == "large" else pa.int32()), flat)
    pq.write_table(pa.table([column], names=["probs"]), path, row_group_size=700)


def with_other_columns(path, rows):
    ids = pa.array(np.arange(len(rows)))
    pq.write_table(table(rows).append_column("id", ids), path)


def gzipped(path, save):
    data = io.BytesIO()
    save(data)
    with gzip.open(path, "wb") as file:
        file.write(data.getvalue())


# Each with the options of `pc compress` that it takes.
WRITERS = {
    "c.npy": (np.save, ""),
    "fortran.npy": (lambda path, rows: np.save(path, np.asfortranarray(rows)), ""),
    "big.npy": (lambda path, rows: np.save(path, rows.astype(rows.dtype.newbyteorder(">"))), ""),
    "big_fortran.npy": (
        lambda path, rows: np.save(path, np.asfortranarray(rows.astype(rows.dtype.newbyteorder(">")))),
        "",
    ),
    "gz.npy": (lambda path, rows: gzipped(path, lambda file: np.save(file, rows)), ""),
    "gz_fortran.npy": (
        lambda path, rows: gzipped(path, lambda file: np.save(file, np.asfortranarray(rows))),
        "",
    ),
    "stored.npz": (lambda path, rows: np.savez(path, rows), ""),
    "deflated.npz": (lambda path, rows: np.savez_compressed(path, p=rows, y=rows[:, 0]), "--array p"),
    "fortran.npz": (lambda path, rows: np.savez(path, np.asfortranarray(rows)), ""),
    "fortran_deflated.npz": (lambda path, rows: np.savez_compressed(path, np.asfortranarray(rows)), ""),
    "commas.csv": (lambda path, rows: np.savetxt(path, rows, delimiter=","), ""),
    "spaces.txt": (np.savetxt, ""),
    "gz.csv": (lambda path, rows: gzipped(path, lambda file: np.savetxt(file, rows, delimiter=",")), ""),
    "arrow.csv": (lambda path, rows: pa.csv.write_csv(table(rows), path), ""),
    "snappy.parquet": (lambda path, rows: pq.write_table(table(rows), path), ""),
    "zstd.parquet": (
        lambda path, rows: pq.write_table(
            table(rows), path, compression="zstd", row_group_size=600, data_page_version="2.0"
        ),
        "",
    ),
    "gzip.parquet": (lambda path, rows: pq.write_table(table(rows), path, compression="gzip"), ""),
    "lz4.parquet": (lambda path, rows: pq.write_table(table(rows), path, compression="lz4"), ""),
    "plain.parquet": (
        lambda path, rows: pq.write_table(table(rows), path, compression="none", use_dictionary=False),
        "",
    ),
    "split.parquet": (
        lambda path, rows: pq.write_table(
            table(rows), path, use_dictionary=False, use_byte_stream_split=True
        ),
        "",
    ),
    "list.parquet": (lambda path, rows: lists(path, rows, "list"), ""),
    "large.parquet": (lambda path, rows: lists(path, rows, "large"), ""),
    "fixed.parquet": (lambda path, rows: lists(path, rows, "fixed"), ""),
    "some.parquet": (with_other_columns, "--columns name*"),
    "file.arrow": (arrow_file, ""),
    "lz4.arrow": (lambda path, rows: arrow_file(path, rows, "lz4"), ""),
    "zstd.arrow": (lambda path, rows: arrow_file(path, rows, "zstd"), ""),
    "stream.arrow": (arrow_stream, ""),
    "feather.feather": (lambda path, rows: pa.feather.write_feather(table(rows), path), ""),
}
if pd is not None:
    WRITERS["pandas.csv"] = (lambda path, rows: pd.DataFrame(rows).to_csv(path, index=False), "")
    WRITERS["pandas.parquet"] = (lambda path, rows: pd.DataFrame(rows).rename(columns=str).to_parquet(path), "")


def read_npz(data):
    with np.load(io.BytesIO(data)) as archive:
        (name,) = archive.files
        return archive[name]


def columns(found):
    return np.stack([column.to_numpy() for column in found.columns], axis=1)


def read_csv(data):
    found = pa.csv.read_csv(
        io.BytesIO(data), read_options=pa.csv.ReadOptions(autogenerate_column_names=not data[:1].isalpha())
    )
    return columns(found).astype(np.float32)


READERS = {
    "npy": lambda data: np.load(io.BytesIO(data)),
    "npz": read_npz,
    "csv": read_csv,
    "jsonl": lambda data: np.array([json.loads(line) for line in data.splitlines()], np.float32),
    "parquet": lambda data: columns(pq.read_table(io.BytesIO(data))),
    "arrow": lambda data: columns(pa.ipc.open_file(io.BytesIO(data)).read_all()),
}


class Checker:
    def __init__(self, pc, folder):
        self.pc, self.folder = pc, folder

    def run(self, words, stdin=None):
        words = [self.pc, *words.split()]
        done = subprocess.run(words, cwd=self.folder, input=stdin, capture_output=True)
        assert done.returncode == 0, (words, done.stderr.decode())
        return done.stdout

    def compare(self, name, original, decoded):
        assert decoded.shape == original.shape and decoded.dtype == np.float32, (name, decoded.dtype)
        worst = np.abs(decoded.astype(np.float64) - original.astype(np.float64)).max(initial=0)
        assert worst <= MAX_ERROR, (name, worst)
        assert (decoded.argmax(axis=1) == original.argmax(axis=1)).all(), name

    def check_in(self, rows):
        """Every way in, from a file and from a pipe."""
        for name, (write, options) in WRITERS.items():
            if rows.dtype == np.float16 and not name.endswith((".npy", ".npz")):
                continue
            path = self.folder / name
            write(path, rows)
            self.run(f"compress {name} -o x.huff --force --max-error {MAX_ERROR} {options}")
            self.run("decode x.huff -o x.npy --force")
            self.compare(name, rows, np.load(self.folder / "x.npy"))
            huff = self.run(f"compress - -o - --max-error {MAX_ERROR} {options}", path.read_bytes())
            assert huff == (self.folder / "x.huff").read_bytes(), name

    def check_out(self, rows):
        """Every way out, to a file and to a pipe, all rows and some."""
        arrow_file(self.folder / "in.arrow", rows)
        self.run(f"compress in.arrow -o x.huff --force --max-error {MAX_ERROR}")
        huff = (self.folder / "x.huff").read_bytes()
        for name, read in READERS.items():
            self.run(f"decode x.huff -o out.{name} --force")
            data = (self.folder / f"out.{name}").read_bytes()
            self.compare(name, rows, read(data))
            assert self.run(f"decode x.huff -o - --format {name}") == data, name
            assert self.run(f"decode - --format {name}", huff) == data, name
            some = self.run(f"decode x.huff -o - --format {name} --rows 10..20")
            self.compare(name, rows[10:20], read(some))
            if name in ("parquet", "arrow", "csv"):
                source = read_names(name, data)
                assert source == table(rows).column_names, source
        self.check_labels(rows)
        self.check_top(rows)

    def check_labels(self, rows):
        labels = rows.argmax(axis=1)
        data = {name: self.run(f"decode x.huff -o - --labels --format {name}") for name in READERS}
        found = {
            "npy": np.load(io.BytesIO(data["npy"])),
            "npz": read_npz(data["npz"]),
            "csv": np.loadtxt(io.BytesIO(data["csv"])),
            "jsonl": np.array([json.loads(line) for line in data["jsonl"].splitlines()]),
            "parquet": pq.read_table(io.BytesIO(data["parquet"]))["label"].to_numpy(),
            "arrow": pa.ipc.open_file(io.BytesIO(data["arrow"])).read_all()["label"].to_numpy(),
        }
        assert found["npy"].dtype == np.int64
        for name, labels_found in found.items():
            assert (labels_found == labels).all(), name

    def check_top(self, rows):
        decoded = np.load(io.BytesIO(self.run("decode x.huff -o -")))
        classes = np.argsort(-decoded, axis=1, kind="stable")[:, :3]
        values = np.take_along_axis(decoded, classes, axis=1)
        with np.load(io.BytesIO(self.run("decode x.huff -o - --top 3 --format npz"))) as archive:
            assert archive["classes"].dtype == np.int32 and (archive["classes"] == classes).all()
            assert archive["values"].dtype == np.float32 and (archive["values"] == values).all()
        pairs = np.stack([classes, values], axis=2)
        lines = self.run("decode x.huff -o - --top 3 --format jsonl").splitlines()
        assert np.allclose([json.loads(line) for line in lines], pairs, rtol=1e-6)
        for found in (
            pa.csv.read_csv(io.BytesIO(self.run("decode x.huff -o - --top 3 --format csv"))),
            pq.read_table(io.BytesIO(self.run("decode x.huff -o - --top 3 --format parquet"))),
        ):
            assert found.column_names == ["class_1", "p_1", "class_2", "p_2", "class_3", "p_3"]
            assert (found["class_2"].to_numpy() == classes[:, 1]).all()
            assert np.allclose(found["p_2"].to_numpy(), values[:, 1], rtol=1e-6)

    def check_exact(self, rows):
        """What is exact comes back bit for bit, through text as well."""
        np.save(self.folder / "in.npy", rows)
        self.run("compress in.npy -o x.huff --force --exact")
        for name, read in READERS.items():
            found = read(self.run(f"decode x.huff -o - --format {name}"))
            assert found.tobytes() == rows.tobytes(), name
        self.run("decode x.huff -o again.csv --force")
        self.run("compress again.csv -o y.huff --force --exact")
        again = np.load(io.BytesIO(self.run("decode y.huff -o -")))
        assert again.tobytes() == rows.tobytes()


def read_names(name, data):
    if name == "csv":
        return pa.csv.read_csv(io.BytesIO(data)).column_names
    read = pq.read_table if name == "parquet" else lambda file: pa.ipc.open_file(file).read_all()
    return read(io.BytesIO(data)).column_names


def main():
    pc = pathlib.Path(sys.argv[1]).resolve()
    files = [pathlib.Path(name) for name in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(pc, pathlib.Path(folder))
        for dtype in (np.float16, np.float32, np.float64):
            rows = predictions(2000, 10, dtype)
            checker.check_in(rows)
            if dtype != np.float16:
                checker.check_out(rows)
            print(f"{np.dtype(dtype)}: {len(WRITERS)} ways in, {len(READERS)} ways out")
        checker.check_exact(predictions(500, 7, np.float32))
        for file in files:
            rows = np.load(file, mmap_mode="r")[:2000].astype(np.float32)
            checker.check_in(rows)
            checker.check_out(rows)
            print(f"{file.name}: {rows.shape[1]} classes")


main()
