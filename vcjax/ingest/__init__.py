"""Collections: every video decoded once into shards, boxes and Fisher vectors that all runs share."""
