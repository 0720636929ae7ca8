"""Training, evaluating and encoding: everything that goes through episodes or images block by
block.
"""
