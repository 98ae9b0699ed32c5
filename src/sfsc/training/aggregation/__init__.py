"""Aggregation: combining the nested gradients of all sub-models into one gradient.

The Gram matrices of inner products show which gradients conflict (`gram`). They determine the weights with
which the gradients are summed (`projection`, `torchjd`).
"""
