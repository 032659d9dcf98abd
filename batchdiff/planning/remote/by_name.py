"""Call functions on workers by name, so that batchdiff need not be installed where the scheduler runs.

A scheduler unpickles every request, so requests contain only Python's own functions, plain values, and references
to what a worker keeps:

::

    the planner requests                          the worker keeps
    resolve_name("batchdiff...:answer_to")        a function
    pickle.loads(bytes of a job)                  a job
    operator.call(that function, that job, 7)     the result of task 7
"""

from __future__ import annotations

import operator
import pickle
import pkgutil
from collections.abc import Callable

from distributed import Client, Future


def submit(client: Client, worker: str, function: Callable[..., object], *arguments: object) -> Future:
    """Have this worker, and no other, call one of Python's own functions."""
    return client.submit(function, *arguments, workers=[worker], allow_other_workers=False, pure=False, retries=0)


def there(client: Client, worker: str, function: Callable[..., object]) -> Future:
    """Have a worker look up a module's function by name, and keep it for :func:`submit_call`."""
    return submit(client, worker, pkgutil.resolve_name, f"{function.__module__}:{function.__qualname__}")


def submit_call(client: Client, worker: str, function: Future, *arguments: object) -> Future:
    """Have a worker call a function from :func:`there`."""
    return submit(client, worker, operator.call, function, *arguments)


def sent(client: Client, worker: str, value: object) -> Future:
    """Send a value to a worker; the scheduler does not unpickle it."""
    return submit(client, worker, pickle.loads, pickle.dumps(value))
