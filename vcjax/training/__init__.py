"""Training: pretraining, finetuning, and the loop that both share."""
