"""Pages of the documentation site that are made from what is kept elsewhere.

parser, configs/, benchmarks/, CONTRIBUTING.md, CHANGELOG.md -> pages; mkdocs calls the hooks

Made when the site is built, so that none of them can differ from its source.
"""

import re
from argparse import SUPPRESS, Action
from pathlib import Path
from typing import Any

from vitlit.cli.configs import CONFIGS_FOLDER, shipped_configs
from vitlit.cli.overview import COMMANDS

ROOT = Path(__file__).parents[1]
COPIES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}  # page -> file
GROUPS = {  # prefix of options -> title and words above its table
    "": ("General", "Options of `fit` without a group. Most commands share them."),
    "model.": ("The model and its training", "The arguments of `ViT` and `Classifier`."),
    "data.": (
        "Images, splits and augmentation",
        "The arguments of `ImageData` and `Augmentation`.",
    ),
    "trainer.": ("Lightning's Trainer", "The words are Lightning's."),
}
ROLE = re.compile(r":\w+:`~?([^`]+)`")  # of reStructuredText, in Lightning's words
OPTIONS_TITLE = """# Options

Every option of every command, as `vitlit COMMAND --help all` lists them. In a config, the part
before the dot is a key, and the part after it a key below that one. Lists are written as
`--data.mean '[0.5, 0.5, 0.5]'`.
"""
CONFIGS_TITLE = """# Configs

The shipped configs, found by their name from any folder: `vitlit fit --config NAME`. Each holds
only what differs from the defaults, and says on top what it reached. Stack several: later ones
override earlier ones.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made; mkdocs calls this with the files that it has found."""
    from mkdocs.structure.files import File

    for name, text in made_pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links out of docs/ to the pages that are made of those files."""
    for page, source in COPIES.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown.replace("](../benchmarks/", "](benchmarks/")


def made_pages() -> dict[str, str]:
    """The text of each page that is made, by its place in the site."""
    pages = {page: (ROOT / source).read_text("utf-8") for page, source in COPIES.items()}
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        pages[f"benchmarks/{path.name}"] = path.read_text("utf-8")
    return pages | {"options.md": options_page(), "configs.md": configs_page()}


def configs_page() -> str:
    """Every shipped config, whole."""
    texts = ((name, (CONFIGS_FOLDER / name).read_text("utf-8")) for name in shipped_configs())
    return CONFIGS_TITLE + "".join(f"\n## {name}\n\n```yaml\n{text}```\n" for name, text in texts)


def options_page() -> str:
    """Every option of every command: those of ``fit`` by group, and what others have besides."""
    from vitlit.commands.short_help import command_options

    options = {command: _settable(command_options(command)) for command in COMMANDS}
    parts = [OPTIONS_TITLE]
    for prefix, (title, words) in GROUPS.items():
        rows = [one for one in options["fit"].values() if _group(one.dest) == prefix]
        parts.append(f"\n## {title}\n\n{words}\n\n{_table(rows)}")
    for command, text in COMMANDS.items():
        rows = [one for name, one in options[command].items() if name not in options["fit"]]
        if rows:
            parts.append(f"\n## vitlit {command}\n\n{text}\n\n{_table(rows)}")
    return "".join(parts)


def _settable(found: list[Action]) -> dict[str, Action]:
    """By name, without those that a user cannot set, and those that only print help."""
    names = [one for one in found if one.default != SUPPRESS or one.dest == "print_config"]
    return {one.dest: one for one in names if one.help != SUPPRESS}


def _group(name: str) -> str:
    return next((prefix for prefix in GROUPS if prefix and name.startswith(prefix)), "")


def _table(options: list[Action]) -> str:
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for one in options:
        words = ROLE.sub(r"`\1`", " ".join(str(one.help).split()))
        choices = re.findall(r"[^{},]+", str(one.metavar)) if str(one.metavar)[0] == "{" else []
        if not all(choice in words or choice in ("true", "false", "null") for choice in choices):
            words = f"{words} One of {', '.join(choices)}."
        name = f"--{one.dest}" if one.option_strings else one.dest
        cells = [f"`{name}`", _default(one.default), words.replace("|", "\\|").replace("<", "&lt;")]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    is_plain = value is not None and value != SUPPRESS
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if is_plain else ""
