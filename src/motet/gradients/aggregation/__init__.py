"""Synchronize by aggregation: gradients go to one worker, which sums them and sends the sums back.

The other way to compute what an all-reduce computes (``--sync aggregate``, ADR 0009). A bucket is cut into chunks. A
chunk's aggregator takes in what each worker sends and adds it up *by worker number*: ``((g0 + g1) + g2) + ...``. At
two workers that is bit for bit what gloo's all-reduce gives, because addition commutes; beyond, the last bits differ
from those of a ring, which adds in another order for each part of a bucket. While a chunk's sums come back, the next
chunks go out: links carry both ways at once.

Aggregators are all workers in turn, balanced by bytes; or those that the user names; or one worker that does nothing
else (`server`). Which one it is follows from what was sent before, so all workers choose alike.

Nothing here runs on the main thread but the choice of the aggregator: each lane has a thread of its own, which sends,
receives and adds, one bucket after the other. All workers launch a lane's buckets in the same order, so the bucket
at the head of a lane is at the head on every worker, or will be without any of them waiting for another lane: nobody
waits for ever.

::

    lane                      a bucket's way: cut, sent, summed by worker number, sent back
    server                    the one worker that does nothing else
    choose                    who aggregates the next chunk
"""
