"""The walls between the rooms: what each module may import, read from its source and when run."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("pipeline", "model", "trainer")

RUNNERS = {"engine", "local_runner", "local_worker", "cluster_runner", "cluster_worker"}
JOBS = {"job", "preprocess", "transforms", "duplicates", "prediction_job", "predict"}
BEAM_SIDE = {*JOBS, *RUNNERS, "files", "output_folder", "parts", "fingerprint"}
BEAM_SIDE |= {"label_photos", "saved_model_handler"}
BEAM_SIDE = {f"pipeline.{name}" for name in BEAM_SIDE}
READING = {"pipeline.input_fn", "pipeline.augment"}
IMPORTERS = {"importlib.import_module", "late_beam.import_job"}
LATE = {"pipeline.records", "pipeline.startup", "pipeline.saved_model_handler"}
"""Import TensorFlow in functions that preprocessing never calls."""
HEAVY = {"tensorflow", "keras", "apache_beam", "tensorflow_datasets", "torch"}


def imports(module: str, late: bool = False) -> set[str]:
    """What a module imports where it stands at the top, or, if `late`, anywhere.

    Names of our own modules come whole, of others only the package.
    """
    source = ROOT / f"{module.replace('.', '/')}.py"
    if not source.exists():
        source = ROOT / module.replace(".", "/") / "__init__.py"
    found = set()
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree) if late else _run_at_import(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            if node.module in OURS:
                found |= {f"{node.module}.{name.name}" for name in node.names}
            else:
                found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTERS:
            found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return {name if name.split(".")[0] in OURS else name.split(".")[0] for name in found}


def _run_at_import(tree: ast.AST):
    """The nodes that run when a module is imported: not functions, nor what only checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _run_at_import(node)


def all_modules() -> list[str]:
    files = (path for room in OURS for path in (ROOT / room).rglob("*.py"))
    names = (path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files)
    return sorted(name.removesuffix(".__init__") for name in names)


def reached(module: str) -> set[str]:
    """What a module imports at its top, and what those of ours import in turn."""
    found, waiting = set(), [module]
    while waiting:
        for name in imports(waiting.pop()) - found:
            found.add(name)
            if name.split(".")[0] in OURS and name in MODULES:
                waiting.append(name)
    return found


MODULES = all_modules()


def in_room(room: str) -> list[str]:
    return [module for module in MODULES if module.split(".")[0] == room]


def test_there_are_modules_to_look_at():
    assert len(in_room("pipeline")) >= 15
    assert len(in_room("model")) >= 8
    assert len(in_room("trainer")) >= 10
    assert set(MODULES) >= BEAM_SIDE | READING
    assert "tensorflow" in imports("pipeline.input_fn")
    assert "apache_beam" in imports("pipeline.transforms")
    for module in LATE:
        assert "tensorflow" in imports(module, late=True) - imports(module)


@pytest.mark.parametrize("module", sorted(set(in_room("pipeline")) - READING))
def test_of_the_pipeline_only_the_reading_half_needs_tensorflow(module):
    assert not reached(module) & {"tensorflow", "keras", "tensorflow_datasets"}


@pytest.mark.parametrize("module", sorted(set(in_room("pipeline")) - READING - LATE))
def test_of_the_pipeline_no_other_module_names_tensorflow(module):
    assert not imports(module, late=True) & {"tensorflow", "keras"}


@pytest.mark.parametrize("module", ["pipeline.job", "pipeline.transforms", "pipeline.local_worker"])
def test_preprocessing_does_not_reach_what_labels_photos(module):
    assert not reached(module) & {"pipeline.saved_model_handler", "pipeline.startup"}


@pytest.mark.parametrize("module", sorted(set(MODULES) - BEAM_SIDE))
def test_only_the_writing_half_needs_beam(module):
    assert "apache_beam" not in imports(module, late=True)
    assert not imports(module, late=True) & BEAM_SIDE - {module}
    assert "apache_beam" not in reached(module)


@pytest.mark.parametrize("module", in_room("model"))
def test_a_model_knows_no_files_and_no_trainer(module):
    found = imports(module, late=True)
    assert {name for name in found if name.split(".")[0] in OURS} <= set(in_room("model"))
    assert not found & {"os", "pathlib", "etils", "io", "shutil", "tempfile", "absl"}


@pytest.mark.parametrize("module", in_room("pipeline"))
def test_the_pipeline_knows_no_model_and_no_trainer(module):
    found = {name.split(".")[0] for name in imports(module, late=True)}
    assert not found & {"model", "trainer"}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"trainer.torch_weights"}))
def test_only_one_module_knows_pytorch(module):
    assert "torch" not in imports(module, late=True)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("pipeline.errors", set()),
        ("pipeline.options", set()),
        ("pipeline.palette", {"numpy"}),
        ("pipeline.pairs", {"numpy", "cv2", "PIL"}),
        ("pipeline.labels", {"numpy", "cv2"}),
        ("pipeline.pair_reader", {"numpy"}),
        ("pipeline.strips", {"numpy", "cv2"}),
        ("pipeline.report", set()),
        ("pipeline.report_page", set()),
        ("pipeline.page", set()),
        ("pipeline.inspect", {"absl"}),
        ("pipeline.records", {"numpy", "cv2", "google", "google_crc32c", "tensorflow"}),
        ("pipeline.cli", {"absl"}),
        ("pipeline.dataset_info", {"numpy", "etils", "tensorflow_datasets"}),
        ("pipeline.synthesize", {"numpy", "cv2", "absl", "tqdm"}),
        ("pipeline.manifest", {"numpy"}),
        ("pipeline.overlay", {"numpy", "cv2"}),
        ("pipeline.startup", {"tensorflow"}),
        ("pipeline.augment", {"tensorflow"}),
        ("pipeline.input_fn", {"numpy", "etils", "tensorflow"}),
    ],
)
def test_packages_from_outside(module, allowed):
    outside = {name for name in imports(module, late=True) if name.split(".")[0] not in OURS}
    assert outside - sys.stdlib_module_names <= allowed


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipeline.transforms", {"apache_beam"}),
        ("pipeline.job", {"apache_beam"}),
        ("pipeline.local_worker", set()),
        ("pipeline.cluster_worker", {"apache_beam"}),
        ("pipeline.preprocess", set()),
        ("pipeline.predict", set()),
        ("pipeline.prediction_job", {"apache_beam"}),
        ("pipeline.synthesize", set()),
        ("pipeline.dataset_info", set()),
        ("pipeline.inspect", set()),
        ("trainer.task", set()),
        ("trainer.import_weights", set()),
        ("trainer.summary", set()),
        ("trainer.sweep", set()),
        ("trainer.gallery", set()),
        ("trainer.demo", set()),
        ("trainer.config", set()),
        ("trainer.config_flags", set()),
        ("trainer.evaluate", set()),
        ("trainer.predict", set()),
        ("trainer.export", set()),
        ("trainer.inference_flags", set()),
        ("trainer.training", {"tensorflow", "keras"}),
        ("trainer.prediction", {"tensorflow", "keras"}),
    ],
)
def test_what_is_really_loaded(module, heavy):
    script = f"import sys, {module}; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == heavy


def test_no_process_of_a_job_imports_tensorflow(pairs_dir, run_command, tmp_path):
    """Neither the command nor its workers: a TensorFlow that would tell of it stands before."""
    told = tmp_path / "told"
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(f"open({str(told)!r}, 'w')")
    done = run_command(
        "pipeline.preprocess", f"--input_dir={pairs_dir}", f"--output_dir={tmp_path / 'records'}",
        "--num_workers=2", env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not told.exists()
