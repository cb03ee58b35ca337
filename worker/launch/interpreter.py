"""Runs a Python program in a forked process as if a new Python had started it."""

from __future__ import annotations

import builtins
import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Iterable
from importlib.machinery import BuiltinImporter, SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType

from worker.launch.command import Launch
from worker.launch.program import WORKLOAD, Program, is_shadowed, read_at_start

# A job may have modules with the same names as these packages.
OUR_PACKAGES = {
    "api",
    "jobs",
    "machine",
    "monitoring",
    "spectrain",
    "spectral_gpt",
    "worker",
    "workload",
    "workspaces",
}


def forget(names: Iterable[str]) -> None:
    """Removes these modules from `sys.modules` without finalizing them.

    Finalizing would write to, and so copy, every page of them.
    """
    kept = [sys.modules.pop(name) for name in names if name in sys.modules]
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


class Interpreter:
    """The state of this process before it runs a program.

    `given` is the environment that it was started with, as the kernel keeps it.
    """

    def __init__(self) -> None:
        pairs = (
            pair.partition(b"=") for pair in Path("/proc/self/environ").read_bytes().split(b"\0")
        )
        self.given = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs if name}
        # Python adds LC_CTYPE if no locale is set.
        self._added = {k: v for k, v in os.environ.items() if k not in self.given}
        self._imported: set[str] = set()
        self._ours: list[str] = []

    def note_imports(self) -> None:
        """Records the imported modules here, since a child would copy the pages of their names."""
        self._imported = {name.partition(".")[0] for name in sys.modules} - {"__main__"}
        self._ours = [name for name in sys.modules if name.partition(".")[0] in OUR_PACKAGES]

    def program(self, launch: Launch) -> Program | None:
        """The program, if running it in this process makes no difference to it; else None.

        Prepares the process for it only so far that `exec` can still undo it.
        """
        program = Program.of(launch)
        if program is None or read_at_start(launch.env) != read_at_start(self.given):
            return None
        try:
            os.chdir(launch.cwd)
        except OSError:
            return None
        imported = self._imported
        if program.module != WORKLOAD:
            forget(self._ours)
            imported = imported - OUR_PACKAGES
        if program.script is not None and not Path(program.script).is_file():
            return None
        if program.module is not None and _runs_imported_code(program.module):
            return None
        directory = None if program.safe_path else _first_directory(program)
        return None if is_shadowed(imported, directory, launch.cwd) else program

    def prepare(self, program: Program, launch: Launch) -> None:
        """Makes environment, arguments and `__main__` those of the program."""
        os.environ.clear()
        os.environ.update({**self._added, **launch.env})
        sys.executable = program.executable
        sys.orig_argv = list(program.command)
        if not program.safe_path:
            sys.path.insert(0, str(_first_directory(program)))
        _set_safe_path(program.safe_path)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        multiprocessing.current_process().authkey = os.urandom(32)
        sys.modules["__main__"] = sys.modules["__mp_main__"] = _new_main()


def run(program: Program) -> None:
    """Runs the program and lets its exceptions end the interpreter as usual."""
    try:
        if program.module is not None:
            sys.argv = ["-m", *program.arguments]
            # The function that `python -m` itself calls.
            runpy._run_module_as_main(program.module)  # type: ignore[attr-defined]
        elif program.script is not None:
            sys.argv = [program.script, *program.arguments]
            path = os.path.join(os.getcwd(), program.script)  # noqa: PTH109, PTH118 - `./` stays
            main = sys.modules["__main__"]
            loader = SourceFileLoader("__main__", path)
            main.__dict__.update(__file__=path, __cached__=None, __loader__=loader)
            exec(compile(Path(path).read_bytes(), path, "exec"), main.__dict__)  # noqa: S102
    except SystemExit:
        raise
    except BaseException:
        _hide_own_frames()
        raise


def _first_directory(program: Program) -> Path:
    """The directory that Python would search first for the program's imports."""
    return Path.cwd() if program.script is None else Path(program.script).resolve().parent


def _set_safe_path(value: bool) -> None:
    """Makes `sys.flags.safe_path` what the program would see, and hand on to its own children.

    This process was started with -P, to keep the working directory from its own imports.
    """
    place = type(sys.flags).__match_args__.index("safe_path")
    flag = ctypes.py_object(value)
    ctypes.pythonapi.Py_IncRef(flag)  # for the call takes one reference over
    ctypes.pythonapi.PyStructSequence_SetItem(
        ctypes.py_object(sys.flags), ctypes.c_ssize_t(place), flag
    )


def _runs_imported_code(name: str) -> bool:
    """Whether `python -m` would warn that this module is already imported."""
    module = sys.modules.get(name)
    return f"{name}.__main__" in sys.modules or (
        module is not None and not hasattr(module, "__path__")
    )


def _new_main() -> ModuleType:
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __loader__=BuiltinImporter)
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    return main


def _hide_own_frames() -> None:
    """Removes the frames of this module from a traceback that ends the program."""
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code is not run.__code__:
            trace = trace.tb_next
        trace = trace.tb_next if trace is not None else error.__traceback__
        show(kind, error.with_traceback(trace), trace)

    sys.excepthook = hook
