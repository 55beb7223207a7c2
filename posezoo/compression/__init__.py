"""Smaller and faster networks that keep their accuracy: quantisation-aware training, pruning.

TensorFlow Model Optimization takes Keras 2 layers alone. Only this folder knows: a network goes in, its Keras 2 twin
is trained, and the weights come back.
"""
