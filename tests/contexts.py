"""MLIR contexts that serve many programs: JAX makes one for each, a quarter of a small one's work.

Tests compile thousands of small programs. A context keeps what its programs had of constants, so
another one takes its place every so often; each thread has its own.
"""

import contextlib
import threading

PROGRAMS = 50  # that a context serves


def share() -> None:
    """Let what JAX lowers from now on share contexts, if JAX is as it was in 0.10."""
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src.interpreters import mlir

        make, own = mlir.make_ir_context, threading.local()

        def shared():
            left = getattr(own, "left", 0)
            if not left:
                own.context, left = make(), PROGRAMS
            own.left = left - 1
            return own.context

        mlir.make_ir_context = shared
