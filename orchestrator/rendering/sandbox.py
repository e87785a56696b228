"""Jinja's sandbox, with short ways for what cannot be unsafe."""

from __future__ import annotations

from types import BuiltinMethodType
from typing import Any

from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

_OF_DICTIONARIES = frozenset(dir(dict))
_OF_LOOPS = frozenset({"first", "last", "index", "index0", "revindex", "revindex0", "length"})
_OF_TEXTS = frozenset(
    {
        "endswith", "find", "lower", "lstrip", "removeprefix", "removesuffix", "replace", "rfind",
        "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper",
    }
)  # fmt: skip


class Sandbox(ImmutableSandboxedEnvironment):
    """`ImmutableSandboxedEnvironment`, with the same answers in a fraction of the time.

    Templates look up members of dictionaries at every turn, and the sandbox asks of each whether
    it is a forbidden attribute of Python's. It cannot be one where the object is exactly a `dict`
    and the name is none of the attributes that a `dict` has; nor can the numbers of a loop, or the
    methods of a text that do nothing but give another text. The sandbox is asked about all others.
    """

    def getattr(self, obj: Any, attribute: str) -> Any:
        """The attribute or member of that name, as far as it is allowed."""
        kind = type(obj)
        if kind is dict:
            if attribute not in _OF_DICTIONARIES:
                try:
                    return obj[attribute]
                except KeyError:
                    return self.undefined(obj=obj, name=attribute)
        elif (kind is LoopContext and attribute in _OF_LOOPS) or (
            kind is str and attribute in _OF_TEXTS
        ):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """What `called` returns, as far as it may be called."""
        kind = type(called)
        # Neither can be marked as unsafe; only macros ask for more than is passed to them.
        if kind is not Macro and kind is not BuiltinMethodType:
            return super().call(context, called, *args, **kwargs)
        kwargs.pop("_block_vars", None)
        kwargs.pop("_loop_vars", None)
        try:
            if kind is Macro:
                return called(context.eval_ctx, *args, **kwargs)
            return called(*args, **kwargs)
        except StopIteration:
            return self.undefined("value was undefined because a callable raised StopIteration")
