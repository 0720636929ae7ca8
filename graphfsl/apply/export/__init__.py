"""Trained learners for devices: ONNX graphs that run without this library and without torch."""
