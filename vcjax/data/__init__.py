"""Reading of video collections as batches of clips (Sec. 4.1 and 4.2)."""
