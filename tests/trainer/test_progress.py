"""What a person sees: one line on a terminal, plain lines in a file."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS = 80
TRAINING = """
import time
from trainer.progress import Progress, counted, say

say("first")
with Progress(steps=1000, first_step=994) as progress:
    for step in range(995, 1001):
        time.sleep(0.15)  # tqdm draws no more often than each tenth of a second
        progress.advance()
        if step == 997:
            for _ in counted(range(3), 3, "evaluate"):
                time.sleep(0.15)
            say("evaluated")
        if step != 996:
            progress.tell(step, 1 / step, float("nan") if step < 998 else 0.5, 123456.7)
say("last")
"""


def on_a_terminal(command: list[str]) -> str:
    """All that the command writes to standard error, which is a terminal."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=writing)
    os.close(writing)
    written = b""
    try:
        while part := os.read(reading, 4096):
            written += part
    except OSError:  # Linux says so that nobody writes any more.
        pass
    os.close(reading)
    assert process.wait() == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


def screen(written: str) -> tuple[list[str], list[list[str]]]:
    """What stands on the terminal in the end, and what each line has shown one after the other.

    Carriage returns are all that is known to move back: what moves up would be seen as text.
    """
    shown = [line.split("\r") for line in written.split("\n")]
    last = []
    for parts in shown:
        line = ""
        for part in parts:
            line = part + line[len(part) :]
        last.append(line.rstrip())
    return last, shown


def test_a_terminal_keeps_one_line():
    written = on_a_terminal([sys.executable, "-c", TRAINING])
    assert "\x1b" not in written
    (first, evaluated, bar, last, end), shown = screen(written)
    assert (first, evaluated, last, end) == ("first", "evaluated", "last", "")
    assert bar.startswith("|") and "1000/1000, loss 0.001, mIoU 0.500, 123456.7 images/s" in bar
    assert bar.endswith("00:00 left")
    assert all(len(part) < COLUMNS for line in shown for part in line)
    seen = [part for part in shown[1] if part.strip()]
    assert any("995/1000, loss 0.001" in part for part in seen)
    assert any(part.startswith("evaluate:  67%") for part in seen)
    assert not any("mIoU" in part or "nan" in part for part in seen)


def test_a_file_gets_lines_and_no_carriage_returns():
    result = subprocess.run(
        [sys.executable, "-c", TRAINING], cwd=ROOT, capture_output=True, check=True
    )
    assert b"\r" not in result.stderr and b"\x1b" not in result.stderr
    first, at_once, *lines = result.stderr.decode().splitlines()
    assert (first, lines[-1]) == ("first", "last")
    # Of the first step there is a loss; how long a step takes is not known yet.
    assert at_once == "step 995 of 1,000: loss 0.001"
    progress = [line for line in lines[:-1] if line != "evaluated"]
    # Four steps are told after it, within about a second: not all of them, and one after a second.
    assert 1 <= len(progress) < 4
    for line in progress:
        assert line.startswith("step ") and line.endswith(" left")


@pytest.mark.slow
def test_a_run_on_a_terminal_keeps_one_line(trained_run, records_dir, tmp_path):
    written = on_a_terminal(
        [
            sys.executable, "-m", "trainer.task", f"--config={trained_run.folder / 'config.json'}",
            "--strategy=one", f"--data_dir={records_dir}", f"--model_dir={tmp_path / 'run'}",
            "--set=steps=30",
        ]
    )  # fmt: skip
    assert "\x1b" not in written
    lines, shown = screen(written)
    assert lines[:2] == ["Training on CPU:0.", "Evaluating 7 validation pictures first."]
    assert [line.partition(":")[0] for line in lines[2:6]] == [
        f"step {step} of 30" for step in (0, 10, 20, 30)
    ]
    assert "30/30, loss " in lines[6] and lines[7:] == [""]
    assert any("1/30, loss " in part for part in shown[3])  # before the first evaluation
