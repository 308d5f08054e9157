"""The helper of the setup cell: where it works, and what it installs."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from metlib.notebooks import runner

HELPER = runner.ROOT / "notebooks" / "setup_course.py"
PINS = ["torch==2.6.0+cu124", "torchvision==0.21.0"]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_course", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_checkout(folder: Path) -> Path:
    """What the helper takes for a checkout of metlib."""
    (folder / "metlib").mkdir(parents=True)
    (folder / "metlib" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text('[project]\ndependencies = ["faiss-cpu>=1.8", "torch>=2.6"]\n')
    return folder


def copy_helper(project: Path, content: Path) -> ModuleType:
    """The helper in another project, with `content` in place of Colab's /content."""
    (project / "notebooks").mkdir(parents=True)
    copy = project / "notebooks" / "setup_course.py"
    copy.write_text(HELPER.read_text(encoding="utf-8").replace("/content", str(content)), encoding="utf-8")
    return load(copy)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The distributions that are there, by version: a Colab machine without metlib."""
    versions = {"torch": "2.6.0+cu124", "torchvision": "0.21.0"}

    def distribution(name: str) -> SimpleNamespace:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return SimpleNamespace(version=versions[name])

    monkeypatch.setattr("importlib.metadata.distribution", distribution)
    monkeypatch.setattr("sys.path", [*sys.path])
    return versions


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    found: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda words, check: found.append(words))
    return found


def pip(source: object) -> list[str]:
    return [sys.executable, "-m", "pip", "install", "--quiet", *PINS, str(source)]


def test_an_installed_metlib_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], calls: list[list[str]]
) -> None:
    installed["metlib"] = "0.1.0"
    monkeypatch.chdir(tmp_path)
    assert load(HELPER).start(str(tmp_path), 0) == tmp_path
    assert calls == [] and Path.cwd() == tmp_path


def test_from_notebooks_it_steps_into_this_project_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], calls: list[list[str]]
) -> None:
    installed["metlib"] = "0.1.0"
    helper = copy_helper(tmp_path / "project", tmp_path / "content")
    (tmp_path / "project" / "pyproject.toml").touch()  # another project's
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    helper.start(str(tmp_path), 0)
    assert Path.cwd() == tmp_path / "project" / "notebooks"
    make_checkout(tmp_path / "project")
    for _ in range(2):  # a cell may be run again
        helper.start(str(tmp_path), 0)
        assert Path.cwd() == tmp_path / "project"


def test_a_missing_metlib_is_installed_from_the_helper_s_own_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], calls: list[list[str]]
) -> None:
    helper = copy_helper(make_checkout(tmp_path / "project"), tmp_path / "content")
    make_checkout(tmp_path / "content" / "metlib")
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    helper.start(str(tmp_path), 0)
    assert calls == [pip(tmp_path / "project")] and Path.cwd() == tmp_path / "project"


@pytest.mark.parametrize("place", ["metlib", "metlib-main", "drive/MyDrive/metlib", "drive/MyDrive/metlib-main"])
def test_a_missing_metlib_is_installed_from_a_checkout_on_colab(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], calls: list[list[str]]
) -> None:
    helper = copy_helper(tmp_path / "elsewhere", tmp_path / "content")
    make_checkout(tmp_path / "content" / place)
    monkeypatch.chdir(tmp_path / "content")
    helper.start(str(tmp_path), 0)
    assert calls == [pip(tmp_path / "content" / place)] and Path.cwd() == tmp_path / "content"


def test_a_folder_called_metlib_is_no_installed_metlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], calls: list[list[str]]
) -> None:
    checkout = make_checkout(tmp_path / "content" / "metlib")
    helper = copy_helper(checkout, tmp_path / "content")
    monkeypatch.chdir(tmp_path / "content")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())  # what it says of a namespace package
    helper.start(str(tmp_path), 0)
    assert calls == [pip(checkout)]


def test_a_checkout_whose_dependencies_are_here_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], calls: list[list[str]]
) -> None:
    installed["faiss-cpu"] = "1.8"
    helper = copy_helper(make_checkout(tmp_path / "project"), tmp_path / "content")
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    helper.start(str(tmp_path), 0)
    assert calls == [] and sys.path[0] == str(tmp_path / "project")


def test_without_a_checkout_the_public_address_is_installed_or_an_error_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], calls: list[list[str]]
) -> None:
    helper = copy_helper(tmp_path / "elsewhere", tmp_path / "content")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(helper, "REPOSITORY", None)
    with pytest.raises(ModuleNotFoundError, match=r"has no metlib: .*make report.*content/metlib"):
        helper.start(str(tmp_path), 0)
    assert calls == []
    del installed["torchvision"]
    monkeypatch.setattr(helper, "REPOSITORY", "https://example.org/a/b")
    helper.start(str(tmp_path), 0)
    assert calls[-1][-2:] == [PINS[0], "git+https://example.org/a/b"]
