"""Make the virtual environment that the Makefile installs into, or say in one line why it cannot be
made.

usage: setup_venv.py .venv      PYTHON names the interpreter; TORCH_ARGS, if set, promises a small
PyTorch build

Runs under whatever Python is at hand: standard library only, and syntax that Python 3.6 reads.
Nothing is left behind where it fails; where .venv is there already and works, nothing is done.
"""

import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile

MINIMUM = (3, 11)
NAMES = ["python3.14", "python3.13", "python3.12", "python3.11", "python3", "python"]
CUDA_GB, CPU_GB, DOWNLOAD_GB = 7, 2, 3  # PyTorch for Linux brings CUDA: 5.5 GB installed
PROBE = """
import sys
def has(name):
    try: __import__(name)
    except ImportError: return 0
    return 1
print("%d %d %d %d" % (sys.version_info[0], sys.version_info[1], has("ensurepip") and has("venv"), has("pip")))
"""  # noqa: E501


class SetupError(Exception):
    """The message is the one line that the user sees."""


def run(command):
    """(exit status, output) of a command; (127, reason) where it cannot be started."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def probe(python):
    """((major, minor), can make environments, has pip), or None where it does not run (a shim, a
    dangling link).
    """
    status, output = run([python, "-c", PROBE])
    try:
        major, minor, makes, pip = (int(word) for word in output.split())
    except ValueError:
        return None
    return None if status else ((major, minor), bool(makes), bool(pip))


def choose_python():
    """The first Python, newest first (or the one that PYTHON names), that is new enough and can
    make environments.
    """
    wanted = os.environ.get("PYTHON")
    old, bare = [], []
    for name in [wanted] if wanted else NAMES:
        path = shutil.which(name)
        found = path and probe(path)
        if not found:
            continue
        version, makes, _ = found
        if version < MINIMUM:
            old.append("%s is %d.%d" % (name, *version))
        elif not makes:
            bare.append("%s (Python %d.%d)" % (path, *version))
        else:
            return path
    if bare:
        raise SetupError(
            "%s has no ensurepip, so it cannot make a virtual environment; on Debian or Ubuntu: "
            "apt install "
            "python3-venv; elsewhere name another Python: make PYTHON=/path/to/python3" % bare[0]
        )
    if wanted and not old:
        raise SetupError(
            "PYTHON=%s does not run; name a Python %d.%d or newer" % (wanted, *MINIMUM)
        )
    raise SetupError(
        "Python %d.%d or newer is needed, but %s; install one, or name it: make "
        "PYTHON=/path/to/python3" % (*MINIMUM, old[0] if old else "none was found")
    )


def free_gb(folder):
    """Free space on the disk of `folder`, which need not exist yet."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free / 1e9


def used_gb(folder):
    """What `folder` holds already: part of an install that was cut off."""
    files = (os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(path).st_size for path in files) / 1e9


def check_disk(venv):
    """Room for PyTorch, unless it is installed already."""
    if glob.glob(
        os.path.join(venv, "lib", "python3*", "site-packages", "torch-*.dist-info", "RECORD")
    ):
        return
    small = bool(os.environ.get("TORCH_ARGS")) or not sys.platform.startswith("linux")
    need, free = (CPU_GB if small else CUDA_GB) - used_gb(venv), free_gb(venv)
    where = os.path.dirname(os.path.abspath(venv))
    if free < need:
        advice = (
            ""
            if small
            else (', or take a CPU build: make demo TORCH_ARGS="--index-url URL" (see the README)')
        )
        raise SetupError(
            "about %.1f GB must be free in %s, but %.1f GB are; free "
            "some%s" % (need, where, free, advice)
        )
    temporary = tempfile.gettempdir()
    if not small and free_gb(temporary) < DOWNLOAD_GB:
        note = (
            "note: pip may need %d GB in %s to download, and %.1f GB are free; "
            "TMPDIR=/roomier/folder moves it"
        )
        print("graphfsl: " + note % (DOWNLOAD_GB, temporary, free_gb(temporary)), file=sys.stderr)


def make_venv(python, venv):
    """`python -m venv`, in full or not at all."""
    try:
        status, output = run([python, "-m", "venv", "--clear", venv])
        if status:
            last = (output.strip().splitlines() or ["exit status %d" % status])[-1].strip()
            raise SetupError(
                "%s -m venv %s failed: %s; on Debian or Ubuntu: apt install "
                "python3-venv" % (python, venv, last)
            )
    except BaseException:  # also an interruption
        shutil.rmtree(venv, ignore_errors=True)
        raise


def setup(venv):
    """The whole of it: an environment that works is kept, one whose Python does not even run is
    made anew.
    """
    found = probe(os.path.join(venv, "bin", "python"))
    if found is None:
        python = choose_python()
        check_disk(venv)
        make_venv(python, venv)
        return
    version, _, pip = found
    if version < MINIMUM:
        raise SetupError("%s holds Python %d.%d; remove it and run make again" % (venv, *version))
    check_disk(venv)
    if (
        not pip
        and run(
            [os.path.join(venv, "bin", "python"), "-m", "ensurepip", "--upgrade", "--default-pip"]
        )[0]
    ):
        raise SetupError("%s has no pip and no ensurepip; remove it and run make again" % venv)


def main(arguments):
    """The exit status; every error is one line on stderr."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        setup(*arguments)
    except (SetupError, OSError) as error:
        print("graphfsl: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("graphfsl: interrupted; run make again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
