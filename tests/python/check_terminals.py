"""What `pc` does at a terminal and when it is interrupted. Usage: check_terminals.py PC

Needs nothing but Python on a Unix, whose pseudo-terminals it uses.
"""

import os
import pathlib
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import time


def npy(n_rows, n_classes):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n_rows}, {n_classes}), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def row(n_classes):
    return struct.pack(f"<{n_classes}f", 1.0, *[0.0] * (n_classes - 1))


class Terminal:
    """A command whose standard error, and what else is named, is a terminal."""

    def __init__(self, words, **streams):
        self.ours, theirs = pty.openpty()
        streams = {name: theirs if stream == "terminal" else stream for name, stream in streams.items()}
        self.process = subprocess.Popen(words, stderr=theirs, **streams)
        os.close(theirs)

    def finish(self):
        """The exit code, and what the terminal shows."""
        shown = b""
        while True:
            try:
                data = os.read(self.ours, 1 << 16)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                break
            shown += data
        os.close(self.ours)
        return self.process.wait(timeout=60), shown.decode()


def main():
    # A job in the background ignores interrupts, and so would the processes it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pc = str(pathlib.Path(sys.argv[1]).resolve())
    folder = tempfile.TemporaryDirectory()
    os.chdir(folder.name)
    pathlib.Path("x.npy").write_bytes(npy(2000, 100) + 2000 * row(100))
    subprocess.run([pc, "compress", "x.npy", "-o", "x.huff", "--quiet"], check=True)

    # Binary data does not go to a terminal, nor is it read from one; text goes there.
    code, shown = Terminal([pc, "decode", "x.huff", "-o", "-"], stdout="terminal").finish()
    assert code == 1 and "standard output is a terminal" in shown, (code, shown)
    code, shown = Terminal([pc, "compress", "-", "-o", "y.huff"], stdin="terminal").finish()
    assert code == 1 and "standard input is a terminal" in shown, (code, shown)
    words = [pc, "decode", "x.huff", "-o", "-", "--format", "csv", "--rows", "0..1", "--quiet"]
    code, shown = Terminal(words, stdout="terminal").finish()
    assert code == 0 and len(shown.split(",")) >= 100, (code, shown)

    # Nothing asks: an existing output is kept, whatever stands on standard input.
    code, shown = Terminal([pc, "decode", "x.huff", "-o", "x.npy"], stdin="terminal").finish()
    assert code == 1 and "exists already" in shown, (code, shown)

    # Progress is for terminals, and only if wanted; colours are not for those who said so.
    for options, is_shown in [([], True), (["--no-progress"], False), (["--quiet"], False)]:
        reader, writer = os.pipe()
        words = [pc, "compress", "-", "-o", "y.huff", "--force", *options]
        terminal = Terminal(words, stdin=reader, stdout=subprocess.DEVNULL)
        os.close(reader)
        os.write(writer, npy(200_000, 100))
        for _ in range(200):
            os.write(writer, 1000 * row(100))
            time.sleep(0.002)
        os.close(writer)
        code, shown = terminal.finish()
        assert code == 0 and ("rows" in shown) == is_shown, (options, code, shown)
    words = [pc, "decode", "missing.huff"]
    for no_color in "1", "0":
        terminal = Terminal(["env", f"NO_COLOR={no_color}", *words])
        code, shown = terminal.finish()
        assert code == 1 and "\x1b[" not in shown and "missing.huff" in shown, (code, shown)

    # An interrupted run leaves nothing behind, and says by its exit code why it ended.
    for words in ["compress", "-", "-o", "z.huff"], ["append", "log.huff", "-"]:
        before = pathlib.Path("x.huff").read_bytes()
        pathlib.Path("log.huff").write_bytes(before)
        files = sorted(os.listdir())
        process = subprocess.Popen([pc, *words], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write(npy(1_000_000, 100) + 150_000 * row(100))
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
        assert code in (130, -signal.SIGINT), (words, code, process.stderr.read())
        assert sorted(os.listdir()) == files, (words, os.listdir())
        assert pathlib.Path("log.huff").read_bytes()[: len(before)] == before, words
        if words[0] == "append":
            decoded = subprocess.run([pc, "decode", "log.huff", "-o", "log.npy", "--skip-damaged"], capture_output=True)
            assert decoded.returncode == 0, decoded.stderr
    print("terminals and interrupts: as they should be")


main()
