"""What the setup cell of every notebook calls. It needs only the standard library until metlib is installed."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
ON_COLAB = [Path("/content", drive, name) for drive in ("", "drive/MyDrive") for name in ("metlib", "metlib-main")]
REPOSITORY = None  # the public address in pyproject.toml; `metlib stamp` writes this line


def start(data_root, seed):
    """Work in the project's folder, make metlib importable, and return the museum's folder as a Path.

    `data_root` is a museum in the Met's layout; the default one is painted from `seed` if it does not exist yet.
    Raises ModuleNotFoundError if metlib is missing and there is no checkout to install.
    """
    if Path("..").resolve() == PROJECT and is_checkout(PROJECT):
        os.chdir("..")  # out of notebooks/, so that relative paths mean the same however a notebook is run
    if version("metlib") is None:  # not find_spec: it takes any folder called metlib for a package
        install()
    from metlib import synthetic

    return synthetic.find_or_paint(data_root, seed)


def install():
    """Install a checkout beside the torch that is here; one whose dependencies are all here is used as it is."""
    checkout = next(filter(is_checkout, [PROJECT, *ON_COLAB]), None)
    if checkout:
        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if all(version(re.split(r"[^\w.-]", line)[0]) for line in project["dependencies"]):
            sys.path.insert(0, str(checkout))
            return
    elif REPOSITORY is None:
        places = ", ".join(map(str, ON_COLAB))
        raise ModuleNotFoundError(
            f"{sys.executable} has no metlib: choose the kernel of the environment that `make report` made, "
            f"or on Colab put a checkout into one of {places}"
        )
    pins = [f"{name}=={version(name)}" for name in ("torch", "torchvision") if version(name)]
    source = str(checkout or f"git+{REPOSITORY}")
    print(f"installing metlib into {sys.executable} (some minutes) ...")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *pins, source], check=True)
    importlib.invalidate_caches()


def is_checkout(folder):
    return all((folder / name).is_file() for name in ("pyproject.toml", "metlib/__init__.py"))


def version(name):
    """The installed version of a distribution; None if it isn't installed."""
    try:
        return metadata.distribution(name).version
    except metadata.PackageNotFoundError:
        return None
