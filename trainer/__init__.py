"""Training, evaluation, export and prediction."""

import os

# Read by TensorFlow when it is imported. oneDNN's kernels are 12 to 22 % faster on processors
# where TensorFlow leaves them off; level 2 drops its start-up notices and keeps its errors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
