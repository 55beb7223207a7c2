"""The house's own rules: who imports whom, what importing costs, what the package ships."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "posezoo"

# A module may import itself and what stands before it on its line; the last group only meets in commands and cli.py.
BASE = ["errors", "files", "skeletons", "geometry", "cards", "weights"]
MAY_IMPORT = {
    "errors": [],
    "files": [],
    "skeletons": [],
    "geometry": [],
    "levels": [],
    "cards": ["errors", "skeletons"],
    "weights": ["errors", "files", "cards"],
    "codecs": ["skeletons", "geometry"],
    "inference": ["errors", "files", "skeletons", "geometry", "codecs", "cards"],
    "layers": [],
    "heads": ["layers"],
    "models": ["layers", "heads", "skeletons", "counts"],
    "torch_weights": ["models", "errors"],
    "counts": [],
    "zoo": ["models", "inference", *BASE],
    "data": ["codecs", "inference", *BASE],
    "training": ["data", "codecs", "inference", "layers", "heads", "models", "zoo", "counts", *BASE],
    "evaluation": ["data", "codecs", "inference", "zoo", *BASE],
    "compression": ["levels", "layers", "heads", "models", "zoo", "inference", "counts", *BASE],
    "export": ["levels", "layers", "heads", "models", "zoo", "inference", "codecs", "counts", *BASE],
    "synth": ["data", "inference", *BASE],
}


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "posezoo" and len(parts) > 1 else None


#: The commands bring everything together; weights are no code.
FREE = ("cli.py", "commands", "pretrained")
SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in FREE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_import_only_what_stands_below_them(path):
    relative = path.relative_to(PACKAGE)
    part = relative.parts[0].removesuffix(".py")
    if part == "__init__":
        return
    known = {p.name.removesuffix(".py") for p in PACKAGE.iterdir()}
    used = {part_of(m) for m in imported_modules(path)} & known - {part}
    allowed = set(MAY_IMPORT[part])
    assert used <= allowed, f"posezoo/{relative} may not import {sorted(used - allowed)}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_package_imports_neither_recipes_nor_converters(path):
    roots = {m.split(".")[0] for m in imported_modules(path)}
    assert not roots & {"recipes", "converters", "benchmarks", "tests"}


@pytest.mark.parametrize(
    "path", [PACKAGE / "layers.py", PACKAGE / "heads.py", *sorted((PACKAGE / "models").glob("*.py"))]
)
def test_networks_use_keras_only(path):
    # One exception: grouped convolutions call TensorFlow's own operation where Keras runs on it.
    allowed = {"tensorflow"} if path.name == "layers.py" else set()
    assert not ({m.split(".")[0] for m in imported_modules(path)} & {"tensorflow", "torch", "jax"}) - allowed


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_is_light():
    heavy = "keras tensorflow torch cv2 scipy pycocotools ai_edge_litert matplotlib rich"
    code = f"import posezoo, sys; print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert run_python(code) == "[]"


def test_importing_is_quick():
    # 0.2 s is the aim; three times that leaves room for a busy machine.
    code = "import time; t = time.perf_counter(); import posezoo; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.6


def test_light_runtime_loads_no_framework():
    code = (
        "import posezoo, sys, numpy as np\n"
        "pose = posezoo.load(posezoo.list_models(runtime='tflite')[0], runtime='tflite')\n"
        "pose(np.zeros((64, 64, 3), np.uint8))\n"
        "print([m for m in ('keras', 'tensorflow', 'torch') if m in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_unknown_public_name_is_told():
    import posezoo

    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        posezoo.laod  # noqa: B018


def test_scripts_have_names_of_their_own():
    # Recipes import each other by name, and tests put several folders of scripts on one path.
    scripts = [
        path.stem for folder in ("recipes", "benchmarks", "tools", "tests") for path in (ROOT / folder).glob("*.py")
    ]
    assert sorted(scripts) == sorted(set(scripts))
