"""The contract: episodes, learners and their slots, adaptation, BatchNorm policies, the
registry.
"""
