import os
import signal
import sys
from pathlib import Path

from tests.run_program import PROGRAM, call, run, start, until

SCRIPT = """\
import shutil, sys, time
source, target = sys.argv[1:]
if "bad" in source:
    sys.exit("no good")
if "slow" in source and not __import__("os").path.exists("{flag}"):
    open("{flag}", "w").close()
    time.sleep(600)
shutil.copy(source, target)
"""


def test_a_run_that_was_killed_and_resumed_is_told_whole(tmp_path: Path) -> None:
    """Who did what, what was cut off and what failed are in the text and on the page."""
    reads, output, html = tmp_path / "reads", tmp_path / "out", tmp_path / "report.html"
    reads.mkdir()
    for name in ("<b>a.fa", "bad.fa", "slow.fa"):
        (reads / name).write_text(">r\nACGT\n")
    flag, script = tmp_path / "flag", tmp_path / "work.py"
    script.write_text(SCRIPT.format(flag=flag))
    words: list[str | Path] = [
        reads,
        "--max-attempts=2",
        "--",
        sys.executable,
        script,
        "{input}",
        "{output}",
    ]
    killed = start(*words, output=output)
    until(flag.exists)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert run(*words, output=output).returncode == 1
    told = call([*PROGRAM, "report", output, "--html", html])
    assert told.returncode == 0, told.stderr
    assert "in 2 runs" in told.stdout
    assert "2 files done, 1 failed, 0 left" in told.stdout
    assert "bad.fa': " in told.stdout
    text = html.read_text()
    assert "&lt;b&gt;a.fa" in text
    assert "<b>a.fa" not in text


def test_a_wrong_folder_is_one_line(tmp_path: Path) -> None:
    """The exit status and the line are those of every other wrong option."""
    told = call([*PROGRAM, "report", tmp_path])
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1


def test_all_texts_agree_after_retries(tmp_path: Path) -> None:
    """Summary and status count results, not work thrown away, and show any letters of a name."""
    reads, output = tmp_path / "reads", tmp_path / "out"
    reads.mkdir()
    for name in ("a.fa", "b.fa", "\u6837.fa"):
        (reads / name).write_text(">r\nACGT\n")
    done = run(reads, "--processor=tests.run_processors:Flaky", output=output, workers=1)
    assert done.returncode == 1
    assert " 20 sequences, " in done.stdout
    status = call([*PROGRAM, "status", output]).stdout
    assert "2 files, 20 sequences" in status
    report = call([*PROGRAM, "report", output]).stdout
    for text in (done.stderr, status, report):
        assert "\u6837.fa'" in text
