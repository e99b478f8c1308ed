"""Training, evaluation, export and prediction."""

from pipeline import startup  # noqa: F401  sets TensorFlow's environment before anything imports it
