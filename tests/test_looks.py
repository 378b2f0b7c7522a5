"""What is hooked looks like the host's own to whoever inspects, copies or pickles it."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from types import FunctionType

import pytest
from urllib3.connectionpool import HTTPConnectionPool

import poolscope
from outcomes import attempt, natively_and_attached
from peers import HOST, keep_alive


def looks(owner, attribute):
    """Look at a function in every way in which a library may."""
    function = getattr(owner, attribute)
    return {
        "type": type(function),
        "signature": inspect.signature(function),
        "names": (function.__module__, function.__qualname__, function.__name__),
        "doc": function.__doc__,
        "defaults": (function.__defaults__, function.__kwdefaults__, function.__annotations__),
        "parameters": function.__code__.co_varnames[: function.__code__.co_argcount],
        "hints": attempt(typing.get_type_hints, function),
        "source": inspect.getsource(function),
        "kind": (inspect.isfunction(function), inspect.isroutine(function), callable(function)),
        "copies": (copy.copy(function) is function, copy.deepcopy(function) is function),
    }


def test_a_hooked_function_looks_like_the_hosts(scope):
    patches = poolscope._process.patchers["urllib3"].patches
    hooked = {patch.target: looks(patch.owner, patch.attribute) for patch in patches}
    functions = [getattr(patch.owner, patch.attribute) for patch in patches]
    assert all(isinstance(function, FunctionType) for function in functions)
    assert all(
        pickle.loads(pickle.dumps(function)) is function
        for function, patch in zip(functions, patches)
        if function.__module__ == patch.hook.module
    )
    scope.detach()
    natively = {patch.target: looks(patch.owner, patch.attribute) for patch in patches}
    scope.attach()
    assert hooked == natively
    assert len(hooked) == len(patches) >= 12


class Portable(HTTPConnectionPool):
    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "pool"}

    def __setstate__(self, state):
        self.__init__(state["host"], state["port"])
        vars(self).update(state)


@pytest.mark.parametrize(
    "again",
    [lambda pool: pickle.loads(pickle.dumps(pool)), copy.deepcopy],
    ids=["pickled", "deep copy"],
)
def test_a_pool_that_can_be_pickled_still_can(scope, serve, again):
    def play(server):
        with Portable(HOST, server.port) as pool:
            seen = [attempt(pool.request, "GET", "/")]
            with again(pool) as other:
                return [*seen, attempt(other.request, "GET", "/")]

    natively, attached, server = natively_and_attached(scope, serve, keep_alive, play)
    assert attached == natively
    scope.of(server).agrees_with(server)


def test_bound_methods_are_copied_and_pickled_as_natively(scope, serve):
    def play(server):
        pool = Portable(HOST, server.port)
        conn = pool._new_conn()
        return [
            type(pickle.loads(pickle.dumps(conn.connect))).__name__,
            attempt(copy.copy, conn.close),
            type(copy.deepcopy(conn.close)).__name__,
            type(pickle.loads(pickle.dumps(pool.close))).__name__,
            (conn.close == conn.close, hash(conn.close) == hash(conn.close)),
            inspect.ismethod(conn.close),
            type(conn.close).__name__,
        ]

    natively, attached, _ = natively_and_attached(scope, serve, keep_alive, play)
    assert attached == natively
