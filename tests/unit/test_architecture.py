"""The shape of the code: imports point one way, files and functions stay small, the package list is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Each part may import from itself and from the parts named.
ALLOWED = {
    "geometry": set(),
    "data": {"geometry"},
    "csrc": {"geometry"},
    "ops": {"geometry", "csrc"},
    "nn": {"geometry", "ops"},
    "models": {"geometry", "data", "ops", "nn"},
    "training": {"geometry", "data", "ops", "nn", "models"},
    "testing": {"geometry", "ops", "nn", "models"},
    "sharing": {"geometry", "data", "ops", "nn", "models", "training"},
    "interfaces": {"geometry", "data", "ops", "nn", "models", "sharing"},
    "tasks": {"geometry", "data", "ops", "nn", "models", "training", "sharing", "interfaces"},
}


def sources() -> dict[str, Path]:
    """Dotted names of all modules of the package, with their files."""
    files = {}
    for folder, prefix in (("ponita", "ponita"), ("csrc", "ponita.csrc"), ("tasks", "ponita.tasks")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            files[".".join([prefix, *(p for p in parts if p != "__init__")])] = path
    return files


def imported(path: Path) -> set[str]:
    """Second components of the ponita modules a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ponita":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("ponita.")}
    return names


def test_imports_point_from_right_to_left():
    wrong = []
    for name, path in sources().items():
        part = name.split(".")[1] if "." in name else None
        if part in ALLOWED:
            wrong += [f"{name} imports {other}" for other in imported(path) & ALLOWED.keys() - ALLOWED[part] - {part}]
    assert not wrong


def test_every_part_has_its_rule():
    parts = {name.split(".")[1] for name in sources() if "." in name}
    assert parts - {"_version"} == ALLOWED.keys()


def test_files_and_functions_are_small():
    too_long, lengths = [], []
    for name, path in sources().items():
        lines = path.read_text().splitlines()
        lengths.append(len(lines))
        if len(lines) > 600:
            too_long.append(name)
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 100:
                too_long.append(f"{name}.{node.name}")
    assert not too_long
    assert sorted(lengths)[len(lengths) // 2] <= 130


def test_public_names_have_docstrings():
    bare = []
    for name, path in sources().items():
        tree = ast.parse(path.read_text())
        scopes = [(name, tree), *((f"{name}.{n.name}", n) for n in tree.body if isinstance(n, ast.ClassDef))]
        for scope, node in scopes:
            if scope.split(".")[-1].startswith("_") and scope != name:
                continue
            if not ast.get_docstring(node) and not (isinstance(node, ast.Module) and path.stem == "_version"):
                bare.append(scope)
            if isinstance(node, ast.Module):
                functions = [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
                bare += [f"{scope}.{n.name}" for n in functions if not ast.get_docstring(n)]
    assert not bare


def test_the_package_list_names_every_folder():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads toml")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {name.rpartition(".")[0] if path.stem != "__init__" else name for name, path in sources().items()}
    assert set(settings["packages"]) == {name for name in on_disk if name}


def test_public_interface():
    import ponita
    from ponita import geometry, models, nn, ops, testing

    assert set(ponita.__all__) == {"EdgeSet", "Output", "Ponita", "Potential", "__version__"}
    assert {"EdgeSet"} <= set(geometry.__all__)
    assert {"pair_conv", "basis_conv", "orientation_conv"} <= set(ops.__all__)
    layers = {"FiberBundleConv", "PointCloudConv", "ConvNeXtBlock", "Lift", "Readout", "KernelBasis"}
    assert layers | {"PolynomialCutoff", "calibrate"} <= set(nn.__all__)
    assert {"load_reference_checkpoint", "save", "load"} <= set(models.__all__)
    assert callable(testing.assert_equivariant) and callable(testing.equivariance_error)
    for module in (ponita, geometry, models, nn, ops):
        assert all(hasattr(module, name) for name in module.__all__)
