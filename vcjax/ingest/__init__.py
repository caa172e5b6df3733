"""Collections: one decode of every video into shards, boxes and vectors that all runs share."""
