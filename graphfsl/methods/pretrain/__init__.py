"""Objectives of pretraining on base classes: the option `pretrain.objective`."""
