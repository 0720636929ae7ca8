"""The page on which people label a pool: `graphfsl annotate`."""
