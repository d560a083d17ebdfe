"""What makes a step lean and stays exact: segmented attention, the log-probability head, batches without padding."""
