"""The documentation as a site: `make docs`. The pages are the Markdown files of the repository, as they are.

The source folder is the root of the repository, so that a link between any two files is the same on a code
host and on the site. A link to a file that is no page becomes a download.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

from dp_bench import __version__

project, author, release = "dp-bench", "the authors of dp-bench", __version__
html_title = f"dp-bench {__version__}"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md"),
    *("results/README.md", "results/*/tables/tables.md", "dp_bench/micro/backbone/CARD.md"),
]
exclude_patterns = [".*", "build", "tests", "results/runs"]
html_theme = "furo"
html_extra_path = ["site"]  # index.html, which leads to docs/index.html, and a style sheet
html_css_files = ["wide.css"]
html_copy_source = False
highlight_language = "text"
myst_heading_anchors = 3
pygments_style = "friendly"


def add_navigation(_: Sphinx, docname: str, source: list[str]) -> None:
    """Make the lists of the index, `- [Title](page.md): …` under a heading, the navigation too."""
    if not source[0].startswith("#"):  # tables are written without a title
        source[0] = f"# {docname}\n\n{source[0]}"
    if docname != root_doc:
        return
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        caption, listed = section.split("\n", 1)
        pages = re.findall(r"^- \[(.+?)\]\((.+?)\.md\)", listed, flags=re.MULTILINE)
        lines = "\n".join(f"{title} <{page}>" for title, page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def setup(app: Sphinx) -> None:
    """Register what this file adds."""
    app.connect("source-read", add_navigation)
