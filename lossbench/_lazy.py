"""Lazy attributes for packages (PEP 562): importing one function costs only that function."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any


def attach(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for `package`.

    `modules` maps each submodule to the names that it defines and the package hands on; a submodule
    with no names is itself the public attribute. A submodule may be called like a function that it
    defines (`transport/sinkhorn_newton.py`): the package's attribute is always the function.
    """
    home = {name: module for module, names in modules.items() for name in names}
    public = sorted([*home, *(module for module, names in modules.items() if not names)])

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            # The import system binds each submodule that it has loaded in its package.
            if name in home and isinstance(value, ModuleType):
                value = getattr(value, name)
            super().__setattr__(name, value)

    sys.modules[package].__class__ = Package

    def __getattr__(name: str) -> Any:
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{home.get(name, name)}")
        value = getattr(module, name) if name in home else module
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *public})

    return __getattr__, __dir__, public
