"""Names for containers that were given none: two words, so that a person can say and type them."""

from __future__ import annotations

import os
import re

from lazarus.errors import FormatError

_FIRST = """
    amber brave bright calm clear clever cool deep early fair fine firm fresh gentle golden good grand green keen
    kind light lively lucky mild neat new noble open plain proud quick quiet rapid ready rich rising safe sharp
    silent simple slow small smooth soft solid steady still strong sunny sure swift tall tidy true vivid warm wide
    wise
"""
_SECOND = """
    anchor ash aspen basin bay beacon birch bridge brook canyon cedar cliff cloud comet coral cove crane dune elm
    falcon fern field fjord forest garden glade harbor hazel heron hill island ivy lake lark linden maple meadow
    mesa moon moss oak orchard otter pebble pine plain poplar quarry rain reef ridge river robin rowan sparrow
    spring stone summit swan tern tide valley willow wren
"""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")


def random_name() -> str:
    """Something like `calm_heron_3f9`."""
    first, second, *rest = os.urandom(4)
    before, after = _FIRST.split(), _SECOND.split()
    return f"{before[first % len(before)]}_{after[second % len(after)]}_{bytes(rest).hex()[:3]}"


def is_name(text: str) -> bool:
    """Can it name a container, or be (the beginning of) an ID?"""
    return _NAME.match(text) is not None


def check_name(name: str) -> str:
    """Returns it, or raises `FormatError`: docker's rule, [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 128."""
    if not is_name(name):
        raise FormatError(f"{name!r:.140}: not a container name (letters, digits, _ . - and not first, at most 128)")
    return name
