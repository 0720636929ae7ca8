"""Training, evaluating and encoding.

Everything that goes through episodes or images block by block stands here.
"""
