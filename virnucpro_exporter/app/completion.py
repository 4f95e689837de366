"""Where shells look for what completes command lines."""

from __future__ import annotations

import os
from pathlib import Path

from virnucpro_exporter.errors import AssetsError, UsageError

SHELLS = ("bash", "zsh", "fish")
_NAME = "virnucpro-exporter"


def users_shell() -> str:
    """The shell that the user works in.

    Raises:
        UsageError: It is none for which there is a script.
    """
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(f"give the shell: {', '.join(SHELLS)} (SHELL is {name!r})")
    return name


def install(shell: str, script: str) -> tuple[Path, Path | None]:
    """Write a script of completions where the shell reads it when it starts.

    Args:
        shell: One of `SHELLS`.
        script: What the shell reads.

    Returns:
        The script, and the file of the user's that reads it, where the shell needs one.

    Raises:
        AssetsError: They cannot be written.
    """
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    path, reader = {
        "bash": (data / _NAME / "complete.bash", home / ".bashrc"),
        "zsh": (data / _NAME / "complete.zsh", Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"),
        "fish": (settings / "fish" / "completions" / f"{_NAME}.fish", None),
    }[shell]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
        if reader is not None:
            _append_once(reader, _reading(shell, path))
    except OSError as error:
        raise AssetsError(f"{error.filename!r}: {error.strerror}") from error
    return path, reader


def _reading(shell: str, path: Path) -> str:
    """The line that reads the script; zsh completes nothing before `compinit`."""
    quoted = "'" + str(path).replace("'", "'\\''") + "'"
    begin = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }; "
    return f"{begin if shell == 'zsh' else ''}[ ! -r {quoted} ] || . {quoted}"


def _append_once(file: Path, line: str) -> None:
    before = file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else ""
    if line in before.splitlines():
        return
    gap = "" if before.endswith("\n") or not before else "\n"
    with file.open("a", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(f"{gap}{line}\n")
