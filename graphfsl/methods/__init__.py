"""One paper, one file, in the folder of the slot that it fills; `graphfsl.core.registry` finds them
by `__all__`.
"""
