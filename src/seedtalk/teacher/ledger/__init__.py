"""The ledger: every call to a paid teacher, kept before its answer is looked at.

One SQLite file holds one row per attempt. A row is written before the call is sent, with what
it may cost at most, and settled when the endpoint has answered, before the answer is parsed. So
a killed run re-pays at most the calls that were in flight, and even those stay counted against
the budget. Requests are known by content: what experiment asked does not matter.
"""

from seedtalk.teacher.ledger.schema import VERSION
from seedtalk.teacher.ledger.store import (
    Batch,
    Ledger,
    Spent,
    endpoint_of,
    request_key,
)
from seedtalk.teacher.ledger.writer import Writer

__all__ = ["VERSION", "Batch", "Ledger", "Spent", "Writer", "endpoint_of", "request_key"]
