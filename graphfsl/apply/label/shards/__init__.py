"""A pool that is larger than memory: worked through in shards, on one machine or several."""
