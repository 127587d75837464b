"""Why an image goes or stays, in words, with times as the tables of the command have them."""

from __future__ import annotations

from functools import partial

from msb_cache.cli.look import absolute
from msb_cache.retention import because as words
from msb_cache.retention.because import Reason as Reason

because = partial(words.because, say=absolute)
because_of = partial(words.because_of, say=absolute)
judged_because = partial(words.judged_because, say=absolute)
