"""One paper, one file, in the folder of the slot that it fills.

`graphfsl.core.registry` finds the methods by the `__all__` of their files.
"""
