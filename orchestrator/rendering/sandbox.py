"""Jinja's sandbox, with fast paths for what cannot be unsafe."""

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
    """`ImmutableSandboxedEnvironment`, with the same results in a fraction of the time.

    Templates look up dictionary members all the time, and the sandbox checks each name against
    Python's forbidden attributes. Three cases need no check: the object is exactly a `dict` and the
    name is not an attribute of `dict`; the numbers of a loop; and the methods of a text that only
    return another text. Jinja's sandbox checks all others.
    """

    def getattr(self, obj: Any, attribute: str) -> Any:
        """The attribute or member with that name, if it is allowed."""
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
        """Calls `called`, if that is allowed, and returns its result."""
        kind = type(called)
        # These two cannot be marked as unsafe; only macros need the `eval_ctx` as well.
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
