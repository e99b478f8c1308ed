"""Networks, losses and metrics for semantic segmentation, as Keras and TensorFlow objects."""
