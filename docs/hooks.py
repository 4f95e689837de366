"""Pages of the site that are not in docs/: those of the repository and the help of each command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from mkdocs.structure.files import File, Files

from virnucpro_exporter.cli import cli

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Where each page of the repository goes in the site.
PAGES = {
    "README.md": "index.md",
    "grafana/README.md": "grafana.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
PICTURES = ("grafana/pictures",)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that lie elsewhere."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=_moved(ROOT / source)))
    for folder in PICTURES:
        for picture in sorted((ROOT / folder).glob("*")):
            place = str(picture.relative_to(ROOT / folder).parent / picture.name)
            files.append(File.generated(config, f"pictures/{place}", content=picture.read_bytes()))
    files.append(File.generated(config, "command-help.md", content=command_help()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the pages of docs/ link to where the other pages went."""
    del config, files
    if page.file.generated_by:
        return markdown
    return relinked(markdown, ROOT / "docs")


def _moved(path: Path) -> str:
    return relinked(path.read_text(), path.parent)


def relinked(markdown: str, folder: Path) -> str:
    """A text whose links are those of the site, and whose links to other files are their names.

    Args:
        markdown: The text, as it is in the repository.
        folder: Where it lies there.
    """

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = (folder / target).resolve()
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else target
        if name in PAGES:
            return f"[{text}]({PAGES[name]}{anchor})"
        if name.startswith("docs/"):
            return f"[{text}]({name.removeprefix('docs/')}{anchor})"
        if any(name.startswith(f"{pictures}/") for pictures in PICTURES):
            return f"[{text}](pictures/{path.name})"
        return text

    return _LINK.sub(link, markdown)


def command_help() -> str:
    """The help of every command, as the program prints it at 100 columns."""
    sections = ["# Help of each command\n", "As `--help` prints it."]
    for name, command in [("", cli), *sorted(cli.commands.items())]:
        words = f"virnucpro-exporter {name}".strip()
        context = click.Context(command, info_name=words, max_content_width=100, terminal_width=100)
        sections.append(f"## {words}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(sections) + "\n"
