"""Write a version: ``python train.py FOLDER``. It is what lies in ``version/``, and the index that is made here.

The index says how often each word occurs in the documentation strings of each standard module, which are parsed, not
imported.
"""

from __future__ import annotations

import ast
import json
import shutil
import sys
import sysconfig
from collections import Counter
from pathlib import Path

VERSION = Path(__file__).parent / "version"
sys.path.insert(0, str(VERSION))

from words import words_of  # noqa: E402  (the same words as in prediction)


def documentation(path: Path) -> str:
    """Return the documentation strings of a module and of its public functions and classes."""
    tree = ast.parse(path.read_bytes())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return "\n".join(ast.get_docstring(node) or "" for node in [tree, *public])


library = Path(sysconfig.get_path("stdlib"))
index = {}
for module in sorted(sys.stdlib_module_names):
    source = next(
        (path for path in (library / f"{module}.py", library / module / "__init__.py") if path.is_file()), None
    )
    if source is not None and not module.startswith("_") and (words := words_of(documentation(source))):
        index[module] = Counter(words)
folder = Path(sys.argv[1])
shutil.copytree(VERSION, folder, ignore=shutil.ignore_patterns("__pycache__"))
(folder / "index.json").write_text(json.dumps(index, sort_keys=True))
print(f"{len(index)} modules, {len(set().union(*index.values()))} words")
