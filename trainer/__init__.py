"""Training, evaluation, export and prediction."""
