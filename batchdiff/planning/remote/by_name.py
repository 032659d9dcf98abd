"""Calls of functions on workers by the functions' names, so that the scheduler need not have this program.

A scheduler unpickles all that it is asked to have done. Here that is functions of Python's own, names and bytes:

::

    planner    resolve_name("batchdiff...:answer_to") ----.      pickle.loads(bytes of a job) ----.
    worker          a function, in its memory             '----> operator.call(function, job, ...) -> result
"""

from __future__ import annotations

import operator
import pickle
import pkgutil
from collections.abc import Callable

from distributed import Client, Future


def submit(client: Client, worker: str, function: Callable[..., object], *arguments: object) -> Future:
    """Have a worker, and no other one, call a function of Python's own."""
    return client.submit(function, *arguments, workers=[worker], allow_other_workers=False, pure=False, retries=0)


def there(client: Client, worker: str, function: Callable[..., object]) -> Future:
    """Return a module's function in the memory of a worker, for :func:`submit_call`."""
    return submit(client, worker, pkgutil.resolve_name, f"{function.__module__}:{function.__qualname__}")


def submit_call(client: Client, worker: str, function: Future, *arguments: object) -> Future:
    """Have a worker call a function that is there."""
    return submit(client, worker, operator.call, function, *arguments)


def sent(client: Client, worker: str, value: object) -> Future:
    """Return a value in the memory of a worker, which unpickles it; the scheduler does not."""
    return submit(client, worker, pickle.loads, pickle.dumps(value))
