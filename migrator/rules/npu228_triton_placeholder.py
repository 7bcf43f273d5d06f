# SPDX-License-Identifier: Apache-2.0
"""NPU228: modules with Triton kernels can be imported without Triton."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.rule import File, Finding, Insert, Rule, Safety, Site, changed, migrated

_IMPORTING = "vllm/triton_utils/importing.py"
_CLASS = "TritonLanguagePlaceholder"
_SITE = f"{_CLASS}.__getattr__"
CODE = """\
def __getattr__(self, name: str):
    # Kernels name more of Triton when they are defined than is listed above;
    # without Triton none of them is compiled.
    if name.startswith("__"):
        raise AttributeError(name)
    return None
"""


class TritonPlaceholder(Rule):
    """Let modules that define Triton kernels be imported where Triton is not.

    ## What it does
    Gives `TritonLanguagePlaceholder`, which stands for `triton.language` where there is no Triton,
    a `__getattr__` that answers every name with None.

    ## Why
    vLLM inspects a model by importing its module. The placeholder lists some names of Triton, and
    a module that uses another while it is imported (`exp = tl.exp` of linear attention) ends as
    "Model architectures failed to be inspected", before the platform can say that it has no such
    layers. An NPU has no Triton. Each release adds to the list what has failed until then.

    ## Example
    ```python
    class TritonLanguagePlaceholder(types.ModuleType):
        def __init__(self): ...

        def __getattr__(self, name: str):
            if name.startswith("__"):
                raise AttributeError(name)
            return None
    ```

    ## Safety
    Equivalent where Triton is: the placeholder is not used there.
    """

    code = "NPU228"
    safety = Safety.EQUIVALENT
    paths = (_IMPORTING,)
    triggers = (rf"class {_CLASS}\b",)
    sites = (Site(_SITE, (_IMPORTING,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the placeholder's class."""
        class_ = file.class_(_CLASS)
        if class_ is None:
            return
        method = file.function(_SITE)
        if method is not None:
            yield migrated(_SITE, method)
            return
        last = class_.body.body[-1]
        yield changed(
            _SITE,
            class_,
            "a name that the placeholder does not list ends the import of a model's module",
            Insert(last, CODE, where="after", blank_lines=1),
        )
