"""The rules of the source tree that import-linter cannot see: who may call what, and what is not a package."""

from __future__ import annotations

import ast
import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from support import REPOSITORY

SOURCE = REPOSITORY / "daemon" / "tidewaiter"
DURABLE = SOURCE / "edges" / "durable.py"
FRAMES = SOURCE / "core" / "pipelines"  # rename() is a method of data frames there; import-linter keeps files out

# Functions that make bytes or names durable, or put one name in the place of another.
DURABLE_CALLS = {
    "os": {"fdatasync", "fsync", "ftruncate", "link", "rename", "renames", "replace", "sync", "truncate"},
    "shutil": {"move"},
}
# Methods of Path and of open files that do the same, with the number of arguments that tells them from namesakes such
# as str.replace(old, new).
DURABLE_METHODS = {"hardlink_to": (1,), "rename": (1,), "replace": (1,), "truncate": (0, 1)}


def durable_calls(source: str) -> list[tuple[int, str]]:
    """Return line and name of each call in `source` that only `edges.durable` may make."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=imported):
                names = DURABLE_CALLS.get(module, set())
                found += [(node.lineno, f"{module}.{alias.name}") for alias in imported if alias.name in names]
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in DURABLE_CALLS:
                if name in DURABLE_CALLS[module]:
                    found.append((node.lineno, f"{module}.{name}"))
            case ast.Call(func=ast.Attribute(value=owner, attr=name), args=arguments, keywords=[]):
                is_function = isinstance(owner, ast.Name) and owner.id in DURABLE_CALLS
                if not is_function and len(arguments) in DURABLE_METHODS.get(name, ()):
                    found.append((node.lineno, f".{name}"))
    return sorted(found)


def test_only_durable_makes_things_durable() -> None:
    """No module but edges.durable calls fsync, truncate, rename or their like."""
    offences = [
        f"{path.relative_to(REPOSITORY)}:{line}: {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path not in (DURABLE, *FRAMES.glob("*.py"))
        for line, name in durable_calls(path.read_text(encoding="utf-8"))
    ]
    assert offences == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("os.fsync(fd)", ["os.fsync"]),
        ("await asyncio.to_thread(os.fdatasync, fd)", ["os.fdatasync"]),
        ("from os import replace as put", ["os.replace"]),
        ("shutil.move(a, b)", ["shutil.move"]),
        ("path.rename(target)", [".rename"]),
        ("(folder / 'a').replace(target)", [".replace"]),
        ("file.truncate()", [".truncate"]),
        ("text.replace('a', 'b')", []),
        ("time.replace(tzinfo=utc)", []),
        ("dataclasses.replace(settings, path=path)", []),
        ("disk.rename(source, target)", []),
        ("disk.truncate(fd, 0, path)", []),
    ],
)
def test_the_search_for_durable_calls_knows_namesakes(source: str, names: list[str]) -> None:
    """The search finds each way of writing such a call, and leaves the methods that are only called the same."""
    wrapped = f"async def f():\n    {source}"
    assert [name for _, name in durable_calls(wrapped)] == names


def test_durable_itself_is_found() -> None:
    """The search is no empty promise: it finds the calls in the one module that may make them."""
    names = {name for _, name in durable_calls(DURABLE.read_text(encoding="utf-8"))}
    assert {"os.fsync", "os.fdatasync", "os.ftruncate", "os.replace"} <= names


def test_daemon_is_a_source_root() -> None:
    """`daemon/` is not a package: python-daemon installs an import of that name."""
    assert not (REPOSITORY / "daemon" / "__init__.py").exists()
    assert [path.name for path in (REPOSITORY / "daemon").iterdir() if path.is_dir() and path.name[0] not in "._"] == [
        "tidewaiter"
    ]


def test_every_package_has_a_docstring_and_types() -> None:
    """Every folder with code is a package that says what it is, and the types are shipped (PEP 561)."""
    assert (SOURCE / "py.typed").exists()
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    for folder in sorted(folders):
        init = folder / "__init__.py"
        assert init.exists(), f"{folder} is no package"
        assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), f"{init} does not say what it is"


def test_every_dependency_is_pinned() -> None:
    """Each name in pyproject.toml is in the constraints with hashes, and these name no host."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    runtime, development = (
        (REPOSITORY / "scripts" / name).read_text(encoding="utf-8")
        for name in ("constraints.txt", "constraints-dev.txt")
    )
    for names, text in (
        (project["project"]["dependencies"], runtime),
        (project["build-system"]["requires"], runtime),
        (project["project"]["dependencies"], development),
        (project["project"]["optional-dependencies"]["dev"], development),
    ):
        for name in names:
            assert f"\n{name.partition('>')[0]}==" in f"\n{text}", f"{name} is not pinned"
    for text in (runtime, development):
        assert "://" not in text
        pins = [block for block in text.split("\n") if "==" in block and not block.startswith((" ", "#"))]
        assert all(pin.endswith("\\") for pin in pins), "a pin without a hash"


def test_both_constraints_pin_the_same_versions() -> None:
    """What the tests run with is what the daemon runs with."""
    runtime, development = (
        {line.split(" ")[0] for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()}
        for path in (REPOSITORY / "scripts" / "constraints.txt", REPOSITORY / "scripts" / "constraints-dev.txt")
    )
    assert runtime <= development


def test_the_version_is_the_projects() -> None:
    """`tidewaiter.__version__` is the version of the installed distribution, which is that of pyproject.toml."""
    try:
        installed = importlib.metadata.version("tidewaiter")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tidewaiter is not installed: the tests run from the source tree")
    project = tomllib.loads(Path(REPOSITORY, "pyproject.toml").read_text(encoding="utf-8"))
    assert installed == project["project"]["version"]
