"""The tools of a checkout: help without side effects, one line where something is missing."""
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[1]
TOOLS = sorted(file.name for file in (ROOT / "tools").iterdir()
               if file.is_file() and "import argparse" in file.read_text())
SCRIPTS = sorted(file.name for file in (ROOT / "tools").iterdir()
                 if file.is_file() and file.read_text().startswith("#!/usr/bin/env bash"))
SETUP_CFG = "[metadata]\nname = nothing\n"


def tool(*arguments, **options):
    return processes.run(list(map(str, arguments)), **options)


def test_every_tool_that_takes_arguments_is_judged():
    by_hand = [file.name for file in (ROOT / "tools").glob("*.py")
               if "sys.argv[1" in file.read_text() and file.name not in TOOLS]
    assert by_hand == [] and len(TOOLS) >= 8 and len(SCRIPTS) >= 6


@pytest.mark.parametrize("name", TOOLS)
def test_help_explains_and_does_nothing(name, tmp_path):
    result = tool(sys.executable, ROOT / "tools" / name, "--help", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.startswith("usage: "), result.stderr
    assert result.stderr == "" and os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_of_a_script_is_what_stands_in_its_head(name, tmp_path):
    result = tool(ROOT / "tools" / name, "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "") and f"tools/{name}" in result.stdout
    assert os.listdir(tmp_path) == [] and not result.stdout.startswith("#")


@pytest.mark.parametrize("arguments, code, words", [
    (["prove_speed"], 2, "DATA OUT COMMIT"),
    (["prove_speed", "data", "out", "commit", "nonsense"], 2, "nonsense"),
    (["prove_on_cpu", "data"], 2, "TORCH_PYTHON"),
    (["prove_on_gpu", "data", "out"], 2, "COMMIT"),
    (["setup", "--nonsense"], 2, "--nonsense"),
    (["sanitize"], 9, "compute-sanitizer"),
    (["sanitize", "--tools", "nonsense"], 2, "memcheck"),
    (["build_kernels", "--name", "nonsense"], 2, "nonsense"),
    (["try_kernel_cache", "--only", "nonsense"], 2, "both-empty"),
    (["build_kernels", "--architecture", "sm_12"], 2, "sm_90a"),
    (["build_kernels", "--name", "sm90_matmul_nt_plain_192*"], 7, "APRNB_CACHE"),
    (["check_determinism.py", "--arch", "nonsense"], 2, "tiny"),
    (["check_determinism.py", "--steps", "0"], 2, "1 or more"),
    (["check_determinism.py", "--device", "nonsense"], 2, "cuda:N"),
    (["check_determinism.py", "--arch", "tiny", "--length", "2048", "--device", "cpu"], 6, "1024"),
    (["compare_loss_curve.py", "data", "-o", "out", "--steps", "1"], 2, "20 or more"),
    (["sweep_sm80_matmul.py", "--device", "cpu"], 2, "measures a GPU"),
    (["bench_table.py", "--bench", "nonsense"], 2, "gemm"),
    (["bench_table.py", "no.csv"], 3, "no.csv"),
])
def test_a_fault_is_named_in_one_line(arguments, code, words, tmp_path):
    (tmp_path / "file").touch()  # a folder below it cannot be made, whoever asks
    path = ROOT / "tools" / arguments[0]
    python = [] if arguments[0] in SCRIPTS else [sys.executable]
    result = tool(*python, path, *arguments[1:], cwd=tmp_path,
                  env=os.environ | {"PATH": "/usr/bin:/bin", "APRNB_CACHE": f"{tmp_path}/file/x"})
    last = result.stderr.splitlines()[-1]
    assert result.returncode == code and "error: " in last and words in last, result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
@pytest.mark.parametrize("arguments", [["compare_loss_curve.py", "dataset", "-o", "out"],
                                       ["make_reference.py", "model", "tokens", "-o", "out"],
                                       ["check_export.py", "source", "export"]])
def test_a_missing_framework_is_named_in_one_line(arguments, tmp_path):
    result = tool(sys.executable, ROOT / "tools" / arguments[0], *arguments[1:], cwd=tmp_path)
    assert result.returncode == 9 and result.stderr.count("\n") == 1
    assert "torch and transformers" in result.stderr


def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "tools/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_quickstart_shows_progress_without_burying_the_result():
    lines = [f"step {i:>5}/{n} | loss 4.0" for n in (700, 60) for i in range(1, n + 1)]
    shown = [line for line in lines if quickstart().progress(line)]
    assert 20 <= len(shown) <= 40 and lines[0] in shown and lines[699] in shown
    assert quickstart().progress("epoch 0 | validation 4.1 nats")


def test_every_file_the_quickstart_counts_is_a_document(tmp_path, capsys):
    quickstart().collect(tmp_path)
    files = list(tmp_path.rglob("*.py"))
    assert f"corpus: {len(files)} Python files" in capsys.readouterr().out
    assert all(file.stat().st_size for file in files)


@pytest.fixture
def checkout(tmp_path):
    """A folder with tools/setup, a setup.cfg and a .venv that has an `aprnb`."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/setup", tmp_path / "tools/setup")
    (tmp_path / "setup.cfg").write_text(SETUP_CFG)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/aprnb").write_text("#!/bin/sh\n")
    (tmp_path / ".venv/bin/aprnb").chmod(0o755)
    return tmp_path


def stamp(checkout, extras, version=platform.python_version()):
    sums = tool("cksum", cwd=checkout, stdin=open(checkout / "setup.cfg")).stdout.strip()
    (checkout / f".venv/.installed-{extras}").write_text(f"Python {version} {sums}\n")


def setup(checkout, *extras):
    """Run it without a package index, so that whatever has to be installed fails."""
    return tool(checkout / "tools/setup", *extras,
                env=os.environ | {"PYTHON": sys.executable, "PIP_NO_INDEX": "1"})


def test_an_installation_with_extras_serves_who_asks_for_none(checkout):
    stamp(checkout, "test")
    for extras in ([], ["test"]):
        result = setup(checkout, *extras)
        assert (result.returncode, result.stderr) == (0, "")
    assert setup(checkout, "data").returncode != 0  # another extra is not there


def test_another_interpreter_makes_the_environment_anew(checkout):
    stamp(checkout, "plain", "3.11.0rc1")
    result = setup(checkout)
    assert "making it anew" in result.stderr
    assert not (checkout / ".venv/.installed-plain").exists()
    made = tool(checkout / ".venv/bin/python", "--version").stdout
    assert made == f"Python {platform.python_version()}\n"
