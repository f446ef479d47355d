"""The verbs on files as a user meets them: one message, its exit code, nothing left behind."""
import errno
import json
import os
import resource
import sys

import hf_fixture as hf
import numpy as np
import processes
import pytest
from apr_bytes import small
from shared import GOLDEN

from aprnb.errors import StorageError
from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.atomic import replace_file
from aprnb.formats.convert import import_model


def aprnb(*args, cwd, **options):
    """Run the command line in a process of its own."""
    return processes.run([sys.executable, "-m", "aprnb", *map(str, args)], cwd=cwd, **options)


@pytest.fixture
def place(tmp_path):
    """A folder with a source `s`, its import `m.apr`, and damaged variants."""
    arrays = hf.tensors()
    hf.folder(tmp_path / "s", arrays, hf.config())
    import_model(tmp_path / "s", tmp_path / "m.apr")
    blob = (tmp_path / "m.apr").read_bytes()
    (tmp_path / "cut.apr").write_bytes(blob[:-1000])
    (tmp_path / "magic.apr").write_bytes(b"GGUF" + blob[4:])
    (tmp_path / "flip.apr").write_bytes(blob[:-500] + bytes((blob[-500] ^ 1,)) + blob[-499:])
    hf.folder(tmp_path / "no_eps", arrays, hf.config(rms_norm_eps=None))
    arrays["model.embed_tokens.weight"] = arrays["model.embed_tokens.weight"][:200]
    hf.folder(tmp_path / "small_vocab", arrays, hf.config(vocab_size=200))
    cut = hf.folder(tmp_path / "cut", arrays, hf.config(vocab_size=200)) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-3])
    return tmp_path


BAD = {
    "missing source": ("import nowhere -o x.apr", 3, "nowhere"),
    "missing model": ("export nowhere.apr -o x", 3, "nowhere.apr"),
    "missing tokenizer": ("import s -o x.apr --tokenizer none.json", 3, "none.json"),
    "missing config": ("import lonely.safetensors -o x.apr", 3, "config.json"),
    "missing output folder": ("import s -o no/x.apr", 3, "no"),
    "truncated": ("validate cut.apr", 4, "cut.apr"),
    "truncated, computing": ("export cut.apr -o x", 4, "cut.apr"),
    "truncated source": ("import cut -o x.apr", 4, "model.safetensors"),
    "wrong magic": ("inspect magic.apr", 4, "GGUF"),
    "flipped byte": ("tensor-stats flip.apr", 4, "checksum"),
    "flipped byte, validated": ("validate flip.apr", 4, "checksum"),
    "flipped byte, exported": ("export flip.apr -o x", 4, "checksum"),
    "source is no model": ("import s/config.json -o x.apr", 4, "safetensors"),
    "no eps": ("import no_eps -o x.apr", 6, "rms_norm_eps"),
    "tokenizer too large": ("import small_vocab -o x.apr", 6, "270"),
    "no hyper-parameters": ("export bare.apr -o x", 6, "never guessed"),
    "output exists": ("import s -o m.apr", 5, "--force"),
    "output folder exists": ("export m.apr -o s", 5, "--force"),
    "output is a folder": ("import s -o s", 5, "is a folder"),
    "other bytes": ("tensor-stats m.apr --against small_vocab", 5, "differ"),
    "quantised cannot be kept": ("export int8.apr -o x", 5, "--dtype"),
    "unknown flag": ("import s -o x.apr --fast", 2, "--fast"),
    "unknown dtype": ("export m.apr -o x --dtype fp8", 2, "fp8"),
    "bad size": ("export m.apr -o x --shard-size 5XB", 2, "5XB"),
    "negative count": ("tensor-stats m.apr --first -1", 2, "-1"),
    "output missing": ("import s", 2, "--output"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_with_its_exit_code(case, place):
    command, code, part = BAD[case]
    hf.save(place / "lonely.safetensors", hf.tensors())
    write_apr(place / "bare.apr", {}, hf.tensors())
    if "int8" in command:
        quantised = GOLDEN / "reference" / "quantised"
        for name in ("int8.apr", "config.json"):
            (place / name).write_bytes((quantised / name).read_bytes())
    before = {p: p.stat().st_size for p in place.rglob("*")}
    done = aprnb(*command.split(), cwd=place)
    assert done.returncode == code, done.stderr
    assert part in done.stderr and "Traceback" not in done.stderr
    if code != 2:
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert {p: p.stat().st_size for p in place.rglob("*")} == before  # nothing left behind


def test_good_input_speaks_json_on_stdout_alone(place):
    verbs = {"import s -o i.apr": "aprnb-import-v1", "export m.apr -o e": "aprnb-export-v1",
             "inspect m.apr": "aprnb-inspect-v1", "tensor-stats m.apr --against s":
             "aprnb-tensor-stats-v1", "validate m.apr": "aprnb-validate-v1",
             "diff m.apr s": "aprnb-diff-v1"}
    for command, schema in verbs.items():
        done = aprnb(*command.split(), "--json", cwd=place)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert json.loads(done.stdout)["schema"] == schema
        plain = aprnb(*command.split(), *(["--force"] if " -o " in command else []), cwd=place)
        assert plain.returncode == 0 and plain.stdout.count("\n") >= 1
    report = json.loads(aprnb("validate", "flip.apr", "--json", cwd=place).stdout)
    assert report["exit_code"] == 4 and report["findings"][0]["rule"] == "FooterMismatch"


def test_import_report_has_the_keys_of_the_interface(place):
    report = json.loads(aprnb("import", "s", "-o", "i.apr", "--json", cwd=place).stdout)
    assert {"output", "tensors", "bytes", "dtypes", "tokenizer", "source"} <= report.keys()
    assert report["dtypes"] == {"BF16": 26} and report["tensors"] == 26
    assert report["bytes"] == (place / "i.apr").stat().st_size


@pytest.mark.parametrize("verb", ["import", "export", "inspect", "tensor-stats", "validate",
                                  "diff"])
def test_help_has_purpose_examples_and_exit_codes(verb, tmp_path):
    done = aprnb(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "Exit codes:" in done.stdout
    assert done.stdout.count(f"  aprnb {verb} ") >= 2 and "--json" in done.stdout


# ---------------------------------------------------------------- full disk

def limit_files_to(nbytes):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))


@pytest.mark.parametrize("command", ["import s -o x.apr", "import s -o m.apr --force",
                                     "export m.apr -o x"])
@pytest.mark.parametrize("nbytes", [0, 100, 9000])
def test_refused_write_is_exit_7_and_leaves_nothing(command, nbytes, place):
    """A real EFBIG from the kernel, in the header, the metadata and the payloads."""
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    done = aprnb(*command.split(), cwd=place, preexec_fn=limit_files_to(nbytes),
                 env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 7, done.stderr
    assert "File too large" in done.stderr and done.stderr.count("\n") == 1
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before
    assert not (place / "x").exists()


def test_full_disk_is_exit_7_and_leaves_nothing(place):
    """A real ENOSPC on a file system of 64 KiB, where one may be mounted."""
    disk = place / "disk"
    disk.mkdir()
    mounted = processes.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk])
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.strip()}")
    try:
        (disk / "old").write_bytes(bytes(45_000))  # leaves 20 KiB
        for command in ("import s -o disk/x.apr", "export m.apr -o disk/x"):
            done = aprnb(*command.split(), cwd=place)
            assert done.returncode == 7 and "No space left" in done.stderr, done.stderr
            assert [p.name for p in disk.iterdir()] == ["old"]
    finally:
        processes.run(["umount", disk], check=True)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_every_failing_call_leaves_the_old_file_and_no_other(error, tmp_path, monkeypatch):
    """fsync, rename and fsync of the folder fail in turn, at call 1, 2, ... until none does."""
    path = tmp_path / "m.apr"
    write_apr(path, {}, {"a": np.zeros(3, np.float32)})
    old = path.read_bytes()
    arrays = {"a": np.ones(300_000, np.float32), "b": np.ones(3, np.float32)}
    for fail_at in range(1, 100):
        left = [fail_at]

        def failing(real):
            def call(*args, **options):
                left[0] -= 1
                if left[0] == 0:
                    raise OSError(error, os.strerror(error))
                return real(*args, **options)
            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "open", "close"):
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                write_apr(path, {}, arrays, force=True)
            except StorageError as caught:
                assert str(path) in str(caught)
                renamed = path.read_bytes() != old
                assert [p.name for p in tmp_path.iterdir()] == ["m.apr"]
                assert not renamed or read_apr(path).tensors.keys() == arrays.keys()
            else:
                break
        if path.read_bytes() != old:
            path.write_bytes(old)
    assert fail_at >= 5 and read_apr(path).array("a").sum() == 300_000


def test_interrupt_removes_the_temporary_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), replace_file(tmp_path / "x"):
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_valid_file_is_valid_for_every_verb(tmp_path):
    (tmp_path / "x.apr").write_bytes(small())
    for verb in ("inspect", "validate", "tensor-stats"):
        assert aprnb(verb, "x.apr", cwd=tmp_path).returncode == 0
