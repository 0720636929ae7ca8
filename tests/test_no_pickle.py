"""Nothing is loaded with pickle, and nothing that a file says is run: a scan of every line that could."""

from __future__ import annotations

import ast
from pathlib import Path

import graphfsl

FILES = sorted(Path(graphfsl.__file__).parent.rglob("*.py"))
# `pickletools` takes a pickle apart without running it; graphfsl/inert_pickle.py says why.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load",
         "OmegaConf.register_new_resolver", "torch.distributed.broadcast_object_list", "os.system"}  # fmt: skip


def complaints(source: str) -> list[str]:
    out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            out += [a.name for a in node.names if a.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            out.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in CALLS:
                out.append(name)
            if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
                out.append(f"{name} without allow_pickle=False")
            if name in ("np.save", "numpy.save") and options.get("allow_pickle", "False") != "False":
                out.append(name)
            if options.get("shell") == "True":
                out.append("shell=True")
    return out


def test_no_file_of_the_package_unpickles_or_runs_text() -> None:
    found = {str(p): c for p in FILES if (c := complaints(p.read_text("utf-8")))}
    assert len(FILES) > 60 and not found


def test_the_scan_would_see_it() -> None:
    for line in ("import pickle", "from joblib import load", "torch.load(f)", "np.load(f)", "eval(x)",
                 "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)", "import pickle.x"):  # fmt: skip
        assert complaints(line), line
    assert not complaints("import pickletools\nnp.load(f, allow_pickle=False)\nregex.compile(x)")
