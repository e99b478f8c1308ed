"""What the pipeline is measured against, side by side in one run."""
