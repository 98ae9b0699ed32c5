"""Aggregation: from one nested gradient per sub-model to one gradient.

The Gram matrices of inner products say which gradients conflict (`gram`); from them come the weights with
which the gradients are summed (`projection`).
"""
