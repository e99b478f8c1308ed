"""From pairs of photo and colour mask to sharded TFRecords, and from those to batches."""
