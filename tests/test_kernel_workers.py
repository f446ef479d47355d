"""Processes that compile: nothing of the caller's runs in them, they end with him, and whatever
happens to one of them or to the cache is survived or said."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.ptx
ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds until a test gives up: compiling one kernel takes less than one
SCRIPT = """
print("the script runs", flush=True)
import os
os.cpu_count = lambda: 1  # one worker shows what is true of several, and costs less
import aprnb.kernels.convert
from aprnb.kernels.launch import prepare
wanted = {("convert_kernel", "f1 h1"), ("convert_kernel", "h1 f1")}
print("built", prepare(wanted, "sm_80"))
"""
KERNELS = 2  # the fewest that workers are started for


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("APRNB_KERNELS", raising=False)
    monkeypatch.setenv("APRNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """(what the script said, the cache it filled): built once for all tests that start there.

    It runs as a cell does, in a command.
    """
    cell = f"exec(compile({SCRIPT!r}, '<cell>', 'exec'), {{'__name__': '__main__'}})"
    cache = tmp_path_factory.mktemp("once") / "cache"
    environment = {k: v for k, v in os.environ.items() if k != "APRNB_KERNELS"}
    return python("-c", cell, env=environment | {"APRNB_CACHE": str(cache),
                                                 "PYTHONPATH": str(ROOT)}), cache


@pytest.fixture
def filled(cache, once):
    """A cache of this test's own in which the kernels are."""
    return shutil.copytree(once[1], cache)


@pytest.fixture
def prepare_here(monkeypatch):
    """Prepare the script's kernels in this process, as if it had just started; gives how many were
    missing. It starts no workers: they write nothing to the cache."""
    from aprnb.kernels import cache as disk
    from aprnb.kernels.launch import prepare
    monkeypatch.setattr(disk, "unkept", {})
    monkeypatch.setattr(disk, "_said", set())

    def prepared():
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", None)
            return prepare({key[:2] for key in keys()[:KERNELS]}, "sm_80")
    return prepared


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True,
                          timeout=PATIENCE, **options)


def files(cache):
    """Names of kernels, and of everything else that lies in a cache."""
    names = [p.name for p in cache.rglob("*") if p.is_file()]
    return ([n for n in names if n.endswith(".kernel")],
            [n for n in names if not n.endswith(".kernel")])


def built_whole(result, cache):
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"the script runs\nbuilt {KERNELS}\n"
    assert [len(names) for names in files(cache)] == [KERNELS, 0]


@pytest.mark.parametrize("way", ["file", "cell"])
def test_a_script_without_a_guard_runs_once(cache, tmp_path, once, way):
    """What multiprocessing starts imports the caller's script and dies in it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    result, filled = once if way == "cell" else (python(tmp_path / "script.py"), cache)
    built_whole(result, filled)
    assert result.stderr == ""


def test_a_script_from_the_input_runs_once_beside_files_named_as_modules(cache, tmp_path):
    """A worker starts in the caller's folder, where they take no module's place."""
    for name in ("numba", "json", "select", "aprnb"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is the wrong file')")
    result = python("-P", "-", input=SCRIPT, cwd=tmp_path)
    built_whole(result, cache)
    assert result.stderr == ""


@pytest.mark.parametrize("harm", [None, "cut", "gone"])
def test_what_is_there_is_not_built_again(filled, prepare_here, harm):
    kernel, other = filled.rglob("*.kernel")
    if harm == "cut":
        kernel.write_bytes(kernel.read_bytes()[:-1])
    elif harm == "gone":
        kernel.unlink()
    before = other.stat().st_mtime_ns
    assert prepare_here() == (1 if harm else 0)
    assert [len(names) for names in files(filled)] == [KERNELS, 0] and prepare_here() == 0
    assert other.stat().st_mtime_ns == before


def test_processes_that_start_together_fill_one_cache(cache):
    with_pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", SCRIPT], **with_pipes) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "") and "built" in out
    assert [len(names) for names in files(cache)] == [KERNELS, 0]


# ---------------------------------------------------------------- ends

def members(session):
    """Processes of a session that are alive."""
    alive = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = status.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            alive.append(int(status.parent.name))
    return alive


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_caller(cache, prepare_here, sent):
    """And what a killed process leaves behind is no hindrance for the next."""
    slow = SCRIPT.replace("lambda: 1", "lambda: 2").replace(
        "convert\n", "convert, aprnb.kernels.attention\n").replace(
        '("convert_kernel", "h1 f1")', '("attention_key_gradient_256", "h4 f3 h4 h4 f3 f")')
    process = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: files(cache)[0])
        assert len(members(process.pid)) >= 2
    except BaseException:
        process.kill()
        raise
    (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)  # as a terminal does
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -sent
    assert err.count("Traceback") == (1 if sent == signal.SIGINT else 0)  # the caller's own
    wait_for(lambda: not members(process.pid))
    (kernel,), others = files(cache)
    assert kernel.startswith("convert_kernel")  # the slow one was being built
    assert prepare_here() == KERNELS - 1
    assert len(files(cache)[0]) == KERNELS and files(cache)[1] == others


def keys():
    import aprnb.kernels.convert  # noqa: F401
    return [("convert_kernel", s, "sm_80") for s in ("f1 h1", "h1 f1", "f1 f1", "h1 h1")]


def test_a_worker_that_is_killed_is_told_truly(monkeypatch):
    from aprnb.kernels import workers
    from aprnb.kernels.build import BuildError
    crew, say = [], workers._Worker.say

    def killed_when_asked(worker, value):
        if isinstance(value, tuple):
            worker.process.kill()
            worker.process.wait()
        crew.append(worker.process)
        say(worker, value)
    monkeypatch.setattr(workers._Worker, "say", killed_when_asked)
    with pytest.raises(BuildError, match="convert_kernel for sm_80.*SIGKILL.*memory"):
        list(workers.build_many(keys(), 2))
    assert {process.returncode for process in crew} == {-signal.SIGKILL}


def test_the_error_of_a_build_is_the_callers():
    from aprnb.kernels.build import BuildError
    from aprnb.kernels.workers import build_many
    with pytest.raises(BuildError, match="convert_kernel for sm_12: "):
        list(build_many([(name, signature, "sm_12") for name, signature, _ in keys()], 1))
    with pytest.raises(BuildError, match="nonsense for sm_80: could not be compiled"):
        list(build_many([("nonsense", "f1", "sm_80")] * 2, 1))


@pytest.mark.parametrize("executable, frozen", [("", False), (None, False), ("/no/python", False),
                                                (sys.executable, True)])
def test_without_an_interpreter_this_process_builds(monkeypatch, executable, frozen):
    """Python inside another program: what would start there is that program once more."""
    from aprnb.kernels import workers
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    monkeypatch.setattr(workers._Worker, "answer", None)
    assert [key for key, _ in workers.build_many(keys(), 2)] == keys()


@pytest.mark.parametrize("when", ["starting", "serving"])
def test_a_worker_leaves_signals_to_its_caller(when):
    """A closed terminal, systemd and Ctrl-C signal the whole group: the caller decides."""
    from aprnb.interrupt import SIGNALS
    from aprnb.kernels import workers
    from aprnb.kernels.build import BuildError
    key = keys()[0]  # this imports its file, which the worker is then told of
    worker = workers._Worker(workers._modules())
    try:
        for asked in ("starting", "serving"):
            if asked == when:
                for number in SIGNALS:
                    worker.process.send_signal(number)
            worker.key = key
            worker.say(key)
            assert worker.answer().symbol
    except BuildError as error:
        pytest.fail(f"the worker is gone: {error}")
    finally:
        worker.kill()
    assert worker.process.returncode == -signal.SIGKILL


def test_what_else_is_printed_in_a_worker_is_no_answer(tmp_path, monkeypatch, capfd):
    """Coverage, debuggers and sites start things in every interpreter, and these may print."""
    from aprnb.kernels import workers
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nprint('[1]\\nstarted')\nsys.stdin and sys.stdin.close()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setattr(workers, "_build_here", None)  # they build, nobody else
    try:
        assert [key for key, _ in workers.build_many(keys()[:2], 1)] == keys()[:2]
    except Exception as error:
        pytest.fail(f"the build ends: {error!r}")
    out, err = capfd.readouterr()
    assert out == "" and "started" in err  # where it hinders nobody


@pytest.mark.parametrize("closed", ["0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_a_caller_without_standard_streams_has_workers(closed):
    """A daemon may have closed them: what it opens next bears their numbers."""
    script = f"""
import aprnb.kernels.convert
from aprnb.kernels import workers
workers._build_here = None  # they build, nobody else
assert len(list(workers.build_many({keys()[:2]}, 1))) == 2
"""
    result = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", script],
                            capture_output=True, text=True, timeout=PATIENCE)
    assert (result.returncode, result.stderr) == (0, "")


# ---------------------------------------------------------------- a cache that takes nothing

WARNED = "every start compiles them anew"


def goes_on(result):
    assert result.returncode == 0, result.stderr
    assert f"built {KERNELS}" in result.stdout and result.stderr.count("UserWarning") == 1
    assert WARNED in result.stderr and "Traceback" not in result.stderr


def test_a_file_that_may_not_grow_is_said_once_and_survived(cache):
    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    alone = "import sys; sys.executable = None\n"  # it builds itself: workers write nothing
    goes_on(python("-c", alone + SCRIPT, preexec_fn=limit))
    assert files(cache) == ([], [])


@pytest.mark.parametrize("option", ["ro", "size=4k"])
def test_a_disk_that_takes_nothing_is_said_once_and_survived(cache, prepare_here, option):
    """Real file systems: one that is read-only, one that is full."""
    from aprnb.kernels import cache as disk
    cache.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=700,{option}", "tmpfs", cache],
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        with pytest.warns(UserWarning, match=WARNED) as said:
            assert prepare_here() == KERNELS
        assert len(said) == 1 and len(disk.unkept) == KERNELS
        assert files(cache) == ([], [])
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_cache_of_another_user_is_refused_once_and_left_alone(filled, cache, prepare_here):
    if os.geteuid():
        pytest.skip("another user's folder needs root")
    for path in (cache, *cache.rglob("*")):
        os.chown(path, 65534, 65534)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    with pytest.warns(UserWarning, match="belongs to user 65534") as said:
        assert prepare_here() == KERNELS
    assert len(said) == 1 and "set APRNB_CACHE to a folder of your own" in str(said[0].message)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
