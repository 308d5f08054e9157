"""What is stamped into the notebooks in git: the setup cell, the Colab badges, no outputs."""

import re
import tomllib
from pathlib import Path

import nbformat

from metlib.common.files import replacing
from metlib.notebooks.kernel import KERNEL
from metlib.notebooks.runner import ROOT, choose, tagged

SETUP = """\
# Setup, the same in every notebook: the project's folder, metlib where it is missing (Colab), and a museum.
import sys

sys.path += ["notebooks", *(f"/content/{a}metlib{b}/notebooks" for a in ("", "drive/MyDrive/") for b in ("", "-main"))]
from setup_course import start  # not found? HINT

data_root = start(data_root, seed)"""


def address() -> str | None:
    """The repository's public address in the checkout's pyproject.toml, `[project.urls]`; None if unknown."""
    project = ROOT / "pyproject.toml"
    if not project.is_file():
        return None
    urls = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("urls", {})
    return next((url.rstrip("/") for name, url in urls.items() if name.lower() == "repository"), None)


def setup_cell() -> str:
    """The setup cell of every notebook, with a hint for readers who opened the notebook without its folder."""
    clone, upload = "Run !git clone {} /content/metlib", "Put a checkout of metlib into /content or on your Drive"
    return SETUP.replace("HINT", clone.format(known) if (known := address()) else upload)


def badged(text: str, name: str) -> str:
    """A Markdown text with a notebook's 'open in Colab' badge below its first line; without a GitHub address, none."""
    text = re.sub(r"\n*<!-- badge -->.*?<!-- /badge -->\n*", "\n\n", text, flags=re.DOTALL)
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?", address() or "")
    if not match:
        return text
    page = f"https://colab.research.google.com/github/{match[1]}/blob/main/notebooks/{name}"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    first, _, rest = text.partition("\n")
    badge = f"<!-- badge -->\n[![Open in Colab]({image})]({page})\n<!-- /badge -->"
    return f"{first}\n\n{badge}\n\n" + rest.lstrip("\n")


def stamped(path: Path) -> str:
    """A notebook's text for git: the current setup cell and badge; no outputs, counts, or metadata except for tags."""
    notebook = nbformat.read(path, as_version=4)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": tags} if (tags := cell.metadata.get("tags")) else {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if not tagged(notebook, "setup"):
        above = (tagged(notebook, "parameters") or notebook.cells)[0]
        setup = nbformat.v4.new_code_cell(id="setup", metadata={"tags": ["setup"]})
        notebook.cells.insert(notebook.cells.index(above) + 1, setup)
    tagged(notebook, "setup")[0].source = setup_cell()
    if notebook.cells[0].cell_type == "markdown":
        notebook.cells[0].source = badged(notebook.cells[0].source, path.name)
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def stamp(folder: Path = ROOT / "notebooks") -> list[Path]:
    """Bring the notebooks of a folder, their helper and the README beside the folder up to date.

    Returns the files that changed. Raises Refused for a folder without notebooks.
    """
    paths = choose(folder)
    texts = {path: stamped(path) for path in paths}
    if (helper := folder / "setup_course.py").is_file():
        line = f"REPOSITORY = {address()!r}".replace("'", '"')
        texts[helper] = re.sub(r'(?m)^REPOSITORY = (None|".*?")', line, helper.read_text(encoding="utf-8"))
    if (readme := folder.parent / "README.md").is_file():
        texts[readme] = badged(readme.read_text(encoding="utf-8"), paths[0].name)
    changed = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        with replacing(path, "w") as file:
            file.write(texts[path])
    return changed
