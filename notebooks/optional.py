"""Where a download is missing, the cells that need it print a sentence, and the other cells run."""

import ast
import dis
import types

from IPython import get_ipython


def skip_cells_with(*names, say):
    """From now on, cells that use one of `names`, or what such a cell would have made, only print `say`.

    A cell that gives a name a value without needing another one brings the name back.
    """
    print(say)
    shell = get_ipython()
    if shell is None:
        return  # not in a notebook
    shell.ast_transformers = [t for t in shell.ast_transformers if not isinstance(t, Skipping)]
    shell.ast_transformers.append(Skipping(names, say))


class Skipping:
    """An IPython transformer of cells, which leaves out those that need a name that is not there."""

    def __init__(self, names, say):
        self.names, self.say = set(names), say

    def visit(self, cell):
        code = compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        made = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
        if not self.names & used(code):
            self.names -= made
            return cell
        self.names |= made
        return ast.parse(f"print({self.say!r})")


def used(code):
    """The global names that a piece of code, or a function in it, reads."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
    return names.union(*(used(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))
