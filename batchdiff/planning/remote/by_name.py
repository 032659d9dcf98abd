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
from collections.abc import Callable, Iterable

from distributed import Client, Future


def submit(client: Client, workers: Iterable[str], function: Callable[..., object], *arguments: object) -> Future:
    """Have one of these workers, and no other one, call a function of Python's own."""
    return client.submit(
        function, *arguments, workers=sorted(workers), allow_other_workers=False, pure=False, retries=0
    )


def there(client: Client, workers: Iterable[str], function: Callable[..., object]) -> Future:
    """Return a module's function in the memory of these workers, for :func:`submit_call`."""
    return submit(client, workers, pkgutil.resolve_name, f"{function.__module__}:{function.__qualname__}")


def submit_call(client: Client, workers: Iterable[str], function: Future, *arguments: object) -> Future:
    """Have one of these workers call a function that is there."""
    return submit(client, workers, operator.call, function, *arguments)


def sent(client: Client, workers: Iterable[str], value: object) -> Future:
    """Return a value in the memory of these workers, which unpickle it; the scheduler does not."""
    return submit(client, workers, pickle.loads, pickle.dumps(value))
