"""What a run does: one file a stage, in the order of a run."""
